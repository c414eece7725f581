"""Fault 14: full disks, failing disks, slow disks, and a remote store that is busy."""

import errno
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.io.filesystem import CompressionTypes, FileMetadata, FileSystem

from pipeline import cli, files
from pipeline.store import Store
from pipeline.verify import verify
from tests import made
from tests.faults.conftest import LIGHT, make, settings, tree
from tests.faults.disk import Disk, failing, slow
from tests.faults.test_10_killed_in_a_commit import before, run


def test_an_operation_that_fails_is_named_and_the_next_run_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation of a run in turn: ENOSPC and EIO by turns, with half a file on the disk where it is a write."""
    before(str(tmp_path / "straight"))
    with monkeypatch.context() as patch:
        disk = Disk().under(files, patch)
        run(str(tmp_path / "straight"))
    wanted = tree(tmp_path / "straight")
    for at, operation in enumerate(disk.seen):
        root = tmp_path / str(at)
        before(str(root))
        number = (errno.ENOSPC, errno.EIO)[at % 2]
        with monkeypatch.context() as patch:
            Disk(at, failing(number)).under(files, patch)
            with pytest.raises(files.StorageError) as caught:
                run(str(root))
        message = str(caught.value)
        assert str(root) in message, operation
        assert os.strerror(number) in message
        assert "\n" not in message
        assert all(problem.left for problem in verify(str(root)).problems)
        run(str(root))
        assert tree(root) == wanted, f"failed at operation {at}, {operation}"


def test_a_slow_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("quick", "slow"):
        before(str(tmp_path / name))
    run(str(tmp_path / "quick"))
    Disk(fault=slow).under(files, monkeypatch)
    run(str(tmp_path / "slow"))
    assert tree(tmp_path / "slow") == tree(tmp_path / "quick")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 200 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"may not mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_prepare_with_one_line_and_room_lets_it_go_on(
    source: Path, small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make(settings(source), tmp_path / "straight")
    (tmp_path / "c.yaml").write_text(f"sources: ['{source}']\n")
    command = ["prepare", str(tmp_path / "c.yaml"), "--out", str(small_disk / "out")]
    for assignment in (*LIGHT, "plan.block_s=6", "write.formats=[parquet, webdataset]"):
        command += ["--set", assignment]
    filler = small_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True)  # until nothing fits
    assert cli.main(command) == 2
    assert f"antiphon prepare: {small_disk}/out/config.yaml: could not write" in capfd.readouterr().err
    filler.unlink()
    assert cli.main(command) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"antiphon prepare: {small_disk}/out/")
    assert last.endswith(
        "No space left on device; the disk is full: make room, and run the same command again: it goes on"
    )
    found = verify(str(small_disk / "out"))
    assert all(problem.left for problem in found.problems)
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    assert cli.main(command) in (0, 1)
    assert tree(small_disk / "out") == tree(tmp_path / "straight")


class Busy(FileSystem):
    """An object store, as Beam sees one, in memory: the first `refuse` calls of each kind fail with `error`."""

    objects: dict[str, bytes]
    refuse: dict[str, int]
    error: Exception

    @classmethod
    def scheme(cls) -> str:
        return "busy"

    def _call(self, kind: str) -> None:
        if self.refuse.get(kind, 0):
            self.refuse[kind] -= 1
            raise self.error

    def create(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> Any:
        self._call("create")
        objects = self.objects

        class Upload(io.BytesIO):
            def close(self) -> None:
                objects[path] = self.getvalue()
                super().close()

        return Upload()

    def open(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> Any:
        self._call("open")
        if path not in self.objects:
            raise FileNotFoundError(path)
        return io.BytesIO(self.objects[path])

    def exists(self, path: str) -> bool:
        self._call("exists")
        return path in self.objects

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        self._call("list")
        for path, data in self.objects.items():
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data))

    def delete(self, paths: list[str]) -> None:
        self._call("delete")
        for path in paths:
            self.objects.pop(path, None)

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def has_dirs(self) -> bool:
        return False

    def mkdirs(self, path: str) -> None: ...
    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None: ...
    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None: ...
    def size(self, path: str) -> int:
        return len(self.objects[path])

    def last_updated(self, path: str) -> float:
        return 0.0

    def checksum(self, path: str) -> str:
        return "0"

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, self.size(path))


class TooManyRequests(Exception):
    code = 429


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Busy]]:
    monkeypatch.setattr(files, "BACKOFF_S", (0.0, 0.0, 0.0))
    Busy.objects, Busy.refuse, Busy.error = {}, {}, TooManyRequests("slow down")
    yield Busy
    Busy.objects = {}


def test_a_remote_store_that_is_busy_for_a_moment_is_asked_again(bucket: type[Busy], tmp_path: Path) -> None:
    Store(str(tmp_path)).commit(made.block(), "f", ["parquet"])
    bucket.refuse = dict.fromkeys(("create", "open", "exists", "list", "delete"), 3)
    store = Store("busy://bucket/corpus")
    store.commit(made.block(), "f", ["parquet"])
    assert store.clean({"part-00000": "f"}) == ["part-00000"]
    remote = {path.removeprefix("busy://bucket/corpus/"): data for path, data in bucket.objects.items()}
    assert {name: data for name, data in remote.items() if not name.startswith("logs/")} == tree(tmp_path)
    store.forget("part-00000")
    assert not bucket.objects


@pytest.mark.parametrize(
    ("error", "words"),
    [(TooManyRequests("slow down"), "slow down"), (PermissionError(13, "Permission denied"), "change the permissions")],
)
def test_a_remote_store_that_stays_so_is_one_clear_error(bucket: type[Busy], error: Exception, words: str) -> None:
    bucket.refuse, bucket.error = {"create": 100}, error
    with pytest.raises(
        files.StorageError, match=f"busy://bucket/corpus/data/part-00000.parquet: could not write.*{words}"
    ):
        Store("busy://bucket/corpus").commit(made.block(), "f", ["parquet"])
    # What passes is tried four times; a refusal is not.
    assert 100 - bucket.refuse["create"] == (4 if isinstance(error, TooManyRequests) else 1)
    assert not bucket.objects
