"""The corpus folder: what is committed, under which fingerprint, and who may write to it.

    corpus/
      config.yaml               the resolved config and the fingerprint of every stage
      plan.jsonl                one line a block
      data/part-00000.parquet   and/or  wds/part-00000.tar
      rejected/part-00000.parquet
      commits/part-00000.json   the dataset is these records
      logs/part-00000.json      seconds of compute by stage: not part of the dataset, since times differ from run to run

A block's files are written first and its commit record last; a block is taken out the other way round. Files without a record
are not in the dataset; `Store.clean` removes them.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from pipeline import files, shards
from schemas import Block, Commit
from schemas.errors import UserError

FOLDERS = {"data": ".parquet", "wds": ".tar", "rejected": ".parquet", "logs": ".json"}
"""Folder -> suffix of its files; all but `logs` are named in the commit records."""


_NOTE = ".run-"


class CorpusBusy(UserError):
    """Another run is writing to the corpus."""


class DamagedRecord(UserError):
    """A commit record that is not the bytes that were written."""


class Store:
    """A corpus at `root`, a local folder or a remote prefix."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, *parts: str) -> str:
        return files.join(self.root, *parts)

    def commits(self, damaged: list[str] | None = None) -> dict[str, Commit]:
        """Block name -> commit record, in order of name.

        Args:
            damaged: takes the names of records that are not the bytes that were written.

        Raises DamagedRecord for such a record where `damaged` is not given, and StorageError.
        """
        found: dict[str, Commit] = {}
        for name in files.names(self.path("commits"), ".json"):
            block = name.removesuffix(".json")
            try:
                record = Commit.from_json(files.read(self.path("commits", name)).decode())
                if record.block != block:
                    raise ValueError(f"it is the record of {record.block}")
                found[block] = record
            except ValueError as error:
                if damaged is None:
                    raise DamagedRecord(
                        f"{self.path('commits', name)}: {error}; `antiphon verify {self.root}` says what else is damaged"
                    ) from None
                damaged.append(block)
        return found

    def listing(self) -> dict[str, set[str]]:
        """Folder -> names of the files of blocks in it, committed or not."""
        return {folder: set(files.names(self.path(folder), suffix)) for folder, suffix in FOLDERS.items()}

    def commit(self, block: Block, fingerprint: str, formats: Collection[str]) -> Commit:
        """Write one block's shard, rejections and log, then its commit record.

        Raises AssertionError if seconds leak, and StorageError; the block is then not committed, or it is whole.
        """
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
        for folder, suffix in FOLDERS.items():
            files.delete(self.path(folder, f"{name}{suffix}"))

    def clean(self, expected: Mapping[str, str], mine: Callable[[str], bool] = lambda name: True) -> list[str]:
        """Forget every block that is not in `expected` (name -> fingerprint) as it stands there, and sweep left-overs.

        A block whose record is damaged, or names a file that is not there, is forgotten too. The bytes of its files are not
        read: that is what `antiphon verify` is for.

        Args:
            mine: given a block's name, whether this run may touch it.

        Returns the names of the blocks that stay.
        """
        for _ in files.sweep(self.root, lambda name: mine(name.partition(".")[0])):
            pass
        damaged: list[str] = []
        committed, there = self.commits(damaged), self.listing()

        def stands(name: str, record: Commit) -> bool:
            whole = all(file in there.get(folder, ()) for folder, _, file in (f.partition("/") for f in record.files))
            return whole and expected.get(name) == record.fingerprint

        keep = [name for name, record in committed.items() if stands(name, record)]
        seen = set(committed) | set(damaged)
        for folder, found in there.items():
            seen |= {name.removesuffix(FOLDERS[folder]) for name in found}
        for name in sorted(seen - set(keep)):
            if mine(name):
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
        own = _NOTE + ("all" if part is None else f"{part[0]}-of-{part[1]}")
        folder = os.open(self.root, os.O_RDONLY)
        try:
            # The folder itself is the lock: a whole run holds it alone; parts share it, and each holds its own note.
            self._flock(folder, exclusive=part is None)
            note = self._note(own)
            try:
                for stale in self._notes(held=False):
                    files.delete(self.path(stale))
                with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, unnamed
                    os.truncate(note, 0)
                    os.write(note, f"process {os.getpid()} on {socket.gethostname()}".encode())
                yield
            finally:
                try:
                    files.delete(self.path(own))  # while it is locked, so that nobody's else is deleted
                finally:
                    os.close(note)
        finally:
            os.close(folder)

    def _note(self, name: str) -> int:
        """The open and locked note of a run."""
        while True:
            note = os.open(self.path(name), os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._flock(note, exclusive=True)
                # Whoever held it before may have deleted it between our opening and our locking it: then it locks nothing.
                if os.path.exists(self.path(name)) and os.path.samestat(os.fstat(note), os.stat(self.path(name))):
                    return note
            except BaseException:
                os.close(note)
                raise
            os.close(note)

    def _notes(self, held: bool) -> list[str]:
        """Names of the notes of runs that are at work, or of those that killed runs left behind."""
        found = []
        for name in sorted(n for n in os.listdir(self.root) if n.startswith(_NOTE)):
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(self.path(name), os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    free = True
                except OSError:
                    free = False
                finally:
                    os.close(handle)
                found += [name] if free != held else []
        return found

    def _flock(self, handle: int, exclusive: bool) -> None:
        for wait_s in (0.02, 0.05, 0.1, None):  # who only looks whether a lock is held holds it for an instant
            try:
                fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            if wait_s is not None:
                time.sleep(wait_s)
        who = ", ".join(files.read(self.path(n)).decode() for n in self._notes(held=True)) or "another process"
        raise CorpusBusy(f"{self.root}: {who} is writing there; wait for it, or choose another folder")

    def busy(self) -> bool:
        """Whether a run is writing to the corpus, as far as this machine can tell."""
        if files.is_remote(self.root):
            return False
        folder = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(folder)
