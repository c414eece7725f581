"""The corpus folder: what is committed, under which fingerprint, and who may write to it.

    corpus/
      config.yaml               the resolved config and the fingerprint of every stage
      plan.jsonl                one line a block
      data/part-00000.parquet   and/or  wds/part-00000.tar
      rejected/part-00000.parquet
      commits/part-00000.json   the dataset is these records
      logs/part-00000.json      seconds of compute by stage: not part of the dataset, since times differ from run to run

A block's files are written first and its commit record last. Files without a record are not in the dataset; `Store.clean`
removes them.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pipeline import files, shards
from schemas import Block, Commit
from schemas.errors import UserError

_FOLDERS = {"parquet": ("data", ".parquet"), "webdataset": ("wds", ".tar")}


class CorpusBusy(UserError):
    """Another run is writing to the corpus."""


class Store:
    """A corpus at `root`, a local folder or a remote prefix."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, *parts: str) -> str:
        return files.join(self.root, *parts)

    def commits(self) -> dict[str, Commit]:
        """Block name -> commit record, in order of name."""
        found = files.names(self.path("commits"), ".json")
        return {n[: -len(".json")]: Commit.from_json(files.read(self.path("commits", n)).decode()) for n in found}

    def commit(self, block: Block, fingerprint: str, formats: Collection[str]) -> Commit:
        """Write one block's shard, rejections and log, then its commit record. Raises AssertionError if seconds leak."""
        block.check_conserved()
        block.utterances.sort(key=lambda u: (u.source, u.channel, u.start))
        rows = shards.rows_of(block)
        written: dict[str, bytes] = {}
        if "parquet" in formats:
            written[f"data/{block.name}.parquet"] = shards.parquet(rows, block.rate_hz, block.tokenizers)
        if "webdataset" in formats:
            written[f"wds/{block.name}.tar"] = shards.tar(rows, block.rate_hz, block.tokenizers)
        written[f"rejected/{block.name}.parquet"] = shards.rejections(block.rejections)
        for name, data in written.items():
            files.write(self.path(*name.split("/")), data)
        lost: Counter[str] = Counter()
        for rejection in block.rejections:
            lost[rejection.reason.value] += block.samples_of(rejection)
        record = Commit(
            block=block.name,
            fingerprint=fingerprint,
            files={name: hashlib.sha256(data).hexdigest() for name, data in written.items()},
            rows=len(rows),
            rate_hz=block.rate_hz,
            samples_in=block.samples_in,
            samples_kept=sum(u.end - u.start for u in block.utterances),
            samples_rejected=dict(lost),
            rejections=dict(Counter(r.reason.value for r in block.rejections)),
        )
        log = {"seconds_in": record.seconds_in, "stage_s": block.stage_s, "host": socket.gethostname()}
        files.write(self.path("logs", f"{block.name}.json"), json.dumps(log, indent=1).encode())
        files.write(self.path("commits", f"{block.name}.json"), record.to_json().encode())
        return record

    def forget(self, name: str) -> None:
        """Take a block out of the dataset: its record first, so that no record ever names a missing file."""
        files.delete(self.path("commits", f"{name}.json"))
        for folder, suffix in [*_FOLDERS.values(), ("rejected", ".parquet"), ("logs", ".json")]:
            files.delete(self.path(folder, f"{name}{suffix}"))

    def clean(self, expected: Mapping[str, str]) -> list[str]:
        """Forget every block that is not in `expected` (name -> fingerprint) as it stands there, and sweep left-overs.

        Returns the names of the blocks that stay.
        """
        for _ in files.sweep(self.root):
            pass
        committed = self.commits()
        keep = [name for name, record in committed.items() if expected.get(name) == record.fingerprint]
        seen = set(committed)
        for folder, suffix in [*_FOLDERS.values(), ("rejected", ".parquet"), ("logs", ".json")]:
            seen |= {n[: -len(suffix)] for n in files.names(self.path(folder), suffix)}
        for name in sorted(seen - set(keep)):
            self.forget(name)
        return keep

    def logs(self) -> dict[str, dict[str, Any]]:
        """Block name -> seconds of audio in and of compute by stage."""
        found = files.names(self.path("logs"), ".json")
        return {n[: -len(".json")]: json.loads(files.read(self.path("logs", n))) for n in found}

    @contextlib.contextmanager
    def lock(self, part: tuple[int, int] | None) -> Iterator[None]:
        """Hold the corpus, or its part `i` of `n`, for as long as the context lasts.

        The kernel lets go of the lock when the process dies, so a killed run never blocks the next. Remote corpora are not
        locked. Raises CorpusBusy, naming the other process, where it is held.
        """
        if files.is_remote(self.root):
            yield
            return
        os.makedirs(self.root, exist_ok=True)
        note = self.path(".run-all" if part is None else f".run-{part[0]}-of-{part[1]}")
        folder = os.open(self.root, os.O_RDONLY)
        try:
            # The folder itself is the lock: a whole run holds it alone; parts share it, and each holds its own note.
            self._flock(folder, exclusive=part is None)
            with open(note, "a+") as handle:
                self._flock(handle.fileno(), exclusive=True)
                handle.truncate(0)
                handle.write(f"process {os.getpid()} on {socket.gethostname()}")
                handle.flush()
                try:
                    yield
                finally:
                    files.delete(note)
        finally:
            os.close(folder)

    def _flock(self, handle: int, exclusive: bool) -> None:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            notes = sorted(n for n in os.listdir(self.root) if n.startswith(".run-"))
            who = ", ".join(files.read(self.path(n)).decode() for n in notes) or "another process"
            raise CorpusBusy(
                f"{self.root}: {who} is writing to this corpus; wait for it, or choose another folder"
            ) from None
