"""`antiphon verify`: read every byte of a corpus again, and name what is not as it was committed.

What is checked, in this order: commit records against their own hash; each named file's presence and sha256, then what is in
it (Parquet and tar read, rows counted, seconds added up); ids over the whole corpus; recordings in more than one split; each
record's fingerprint against `config.yaml` and `plan.jsonl`; files that no record names.
"""

import hashlib
import io
import json
import os
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import yaml

from pipeline import files, shards
from pipeline.store import FOLDERS, Store
from schemas import Commit
from schemas.errors import UserError

_COLUMNS = ("id", "source", "split", "start_s", "end_s")


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        path: relative to the corpus. what: in words. block: the block that has to be made again, or "" where none has.
        left: True for a file that no record names: no part of the dataset, and removed by the next run.
    """

    path: str
    what: str
    block: str = ""
    left: bool = False


@dataclass
class Findings:
    """What `verify` saw: the problems, and how much it read."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blocks: int = 0
    files: int = 0
    n_bytes: int = 0
    rows: int = 0
    seconds_in: float = 0.0

    @property
    def damaged(self) -> list[str]:
        """Names of the blocks that have to be made again."""
        return sorted({p.block for p in self.problems if p.block})


@dataclass
class _Seen:
    """What is compared over the whole corpus: folder -> id -> block, and source -> splits."""

    ids: dict[str, dict[str, str]] = field(default_factory=lambda: {"data": {}, "wds": {}})
    splits: dict[str, set[str]] = field(default_factory=dict)


def verify(corpus: str) -> Findings:
    """Check a corpus. Reads every committed file once, one block in memory at a time. Raises UserError where there is none."""
    store, found = Store(corpus), Findings()
    damaged: list[str] = []
    commits = store.commits(damaged)
    if not commits and not damaged:
        raise UserError(f"{corpus}: no commits/part-*.json here, so no corpus")
    for name in damaged:
        found.problems.append(Problem(f"commits/{name}.json", "its bytes are not those that were written", name))
    seen = _Seen()
    found.blocks = len(damaged)
    for name, commit in commits.items():
        found.blocks += 1
        found.rows += commit.rows
        found.seconds_in += commit.seconds_in
        for path, what in _block(store, commit, seen, found):
            found.problems.append(Problem(path, what, name))
    plan, planned = _plan(store, found)
    found.problems += _stale(commits, planned)
    found.problems += _splits(seen, plan)
    if store.busy():
        found.notes.append("a run is writing to this corpus: files that are not committed yet are its own")
    else:
        found.problems += _left(store, {*commits, *damaged}, commits)
    missing = sorted(set(planned) - set(commits) - set(damaged))
    if missing:
        found.notes.append(f"unfinished: {len(missing)} of {len(planned)} planned blocks are not committed yet")
    return found


def _block(store: Store, commit: Commit, seen: _Seen, found: Findings) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of one block's record and files; its rows are added to `seen`."""
    record = f"commits/{commit.block}.json"
    if commit.samples_in != commit.samples_kept + sum(commit.samples_rejected.values()):
        rejected = sum(commit.samples_rejected.values())
        yield record, f"{commit.samples_in} samples in, but {commit.samples_kept} kept and {rejected} rejected"
    for path, sha256 in commit.files.items():
        found.files += 1
        try:
            data = files.read(store.path(*path.split("/")))
        except FileNotFoundError:
            yield path, "it is committed but not there"
            continue
        except files.StorageError as error:
            yield path, f"it does not read: {error}"
            continue
        found.n_bytes += len(data)
        got = hashlib.sha256(data).hexdigest()
        if got != sha256:
            yield (
                path,
                f"its {len(data)} bytes are not those that were committed (sha256 {got[:12]}, not {sha256[:12]})",
            )
            continue
        folder = path.partition("/")[0]
        try:
            if folder == "rejected":
                yield from ((path, what) for what in _rejections(data, commit))
            else:
                held = _parquet(data) if folder == "data" else _tar(data)
                yield from ((path, what) for what in _rows(held, commit, seen.ids[folder]))
                for row in held:
                    seen.splits.setdefault(row["source"], set()).add(row["split"])
        except (pa.ArrowException, tarfile.TarError, OSError, ValueError, KeyError) as error:
            yield path, f"committed as it is, and does not read: {type(error).__name__}: {error}"


def _parquet(data: bytes) -> list[dict[str, Any]]:
    """Key columns of every row; the other columns are read too, since a page that does not read shows only then."""
    return [{name: row[name] for name in _COLUMNS} for row in shards.read_parquet(data)]


def _tar(data: bytes) -> list[dict[str, Any]]:
    held = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            read = content.read() if content else b""
            if member.name.endswith(".json"):
                held.append({name: value for name, value in json.loads(read).items() if name in _COLUMNS})
    return held


def _rows(held: list[dict[str, Any]], commit: Commit, ids: dict[str, str]) -> Iterator[str]:
    for row in held:
        if row["id"] in ids:
            yield f"row {row['id']} of {row['source']} is also in {ids[row['id']]}"
        ids[row["id"]] = commit.block
    if len(held) != commit.rows:
        yield f"{len(held)} rows, and its record says {commit.rows}"
    kept = sum(round(r["end_s"] * commit.rate_hz) - round(r["start_s"] * commit.rate_hz) for r in held)
    if kept != commit.samples_kept:
        yield f"{kept} samples in its rows, and its record says {commit.samples_kept}"


def _rejections(data: bytes, commit: Commit) -> Iterator[str]:
    held = list(shards.read_parquet(data))
    count = Counter(r["reason"] for r in held)
    samples: Counter[str] = Counter()
    for r in held:
        samples[r["reason"]] += round(r["end_s"] * commit.rate_hz) - round(r["start_s"] * commit.rate_hz)
    if dict(count) != commit.rejections:
        yield f"rejections {dict(count)}, and its record says {commit.rejections}"
    elif dict(samples) != commit.samples_rejected:
        yield f"samples rejected {dict(samples)}, and its record says {commit.samples_rejected}"


def _plan(store: Store, found: Findings) -> tuple[dict[str, str], dict[str, str]]:
    """Source -> recording, and block -> fingerprint, as `config.yaml` and `plan.jsonl` say; a note where they do not read."""
    from pipeline.plan import read_plan
    from pipeline.prepare import fingerprint

    try:
        resolved = yaml.safe_load(files.read(store.path("config.yaml")))
        blocks = read_plan(files.read(store.path("plan.jsonl")).decode())
        formats = resolved["config"]["write"]["formats"]
        planned = {block.name: fingerprint(block, resolved["stages"], formats) for block in blocks}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        found.notes.append(
            f"config.yaml or plan.jsonl does not read ({type(error).__name__}); `antiphon prepare` writes both"
        )
        return {}, {}
    return {piece.source: piece.uri for block in blocks for piece in block.pieces}, planned


def _stale(commits: Mapping[str, Commit], planned: Mapping[str, str]) -> Iterator[Problem]:
    if not planned:
        return
    for name, commit in commits.items():
        if name not in planned:
            yield Problem(f"commits/{name}.json", "no block of plan.jsonl: it is of an earlier, larger run", name)
        elif planned[name] != commit.fingerprint:
            yield Problem(
                f"commits/{name}.json", "made of other sources, options or weights than config.yaml says", name
            )


def _splits(seen: _Seen, recordings: Mapping[str, str]) -> Iterator[Problem]:
    found: dict[str, set[str]] = {}
    for source, splits in seen.splits.items():
        found.setdefault(recordings.get(source) or source, set()).update(splits)
    for recording, splits in sorted(found.items()):
        if len(splits) > 1:
            names = " and ".join(sorted(splits))
            what = f"the recording {recording} is in the splits {names}: held-out losses are not to be trusted"
            yield Problem("plan.jsonl", what)


def _left(store: Store, known: set[str], commits: Mapping[str, Commit]) -> Iterator[Problem]:
    """Files that no commit record names."""
    named = {path for commit in commits.values() for path in commit.files}
    for folder, found in store.listing().items():
        for name in sorted(found):
            block = name.removesuffix(FOLDERS[folder])
            path = f"{folder}/{name}"
            # A damaged record named some of its block's files, and the log is named by none.
            if path not in named and not (block in known and (block not in commits or folder == "logs")):
                yield Problem(path, "no commit record names it", left=True)
    for path in files.temporaries(store.root):
        yield Problem(os.path.relpath(path, store.root), "a killed run left it", left=True)


def run_verify(corpus: str, forget: bool) -> int:
    """Print what is wrong with a corpus, and take damaged blocks out if asked to. Exit code 1 where something is wrong."""
    found = verify(corpus)
    for note in found.notes:
        print(note)
    for problem in found.problems:
        print(f"{problem.path}: {problem.what}")
    if not found.problems:
        print(
            f"whole: {found.blocks} blocks, {found.files} files, {found.n_bytes / 1e6:.1f} MB, {found.rows} rows, "
            f"{found.seconds_in:.1f} s in = kept + rejected"
        )
        return 0
    damaged, left = found.damaged, [p.path for p in found.problems if p.left]
    sys.stdout.flush()
    if forget:
        store = Store(corpus)
        with store.lock(None):
            for name in damaged:
                store.forget(name)
            for path in left:
                files.delete(store.path(path))
        print(f"{len(damaged)} blocks taken out, {len(left)} left-over files removed", file=sys.stderr)
    else:
        print(f"{len(damaged)} of {found.blocks} blocks have to be made again", file=sys.stderr)
    if damaged or left:
        before = "" if forget else f"`antiphon verify {corpus} --forget` takes them out, and then "
        print(f"{before}`antiphon prepare CONFIG --out {corpus}` makes what is missing", file=sys.stderr)
    return 1
