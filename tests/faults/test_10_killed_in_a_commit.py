"""Fault 10: killed at every single disk operation of a run; the next run completes to the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import files
from pipeline.store import Store
from pipeline.verify import verify
from tests import made
from tests.faults.disk import Disk, killing
from training.reader import Corpus

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {"part-00000": "new", "part-00001": "same"}
FORMATS = ("parquet", "webdataset")


def before(root: str) -> None:
    """What is there: one block of an earlier config, one that stands, and a third that is no longer planned."""
    for index, fingerprint in enumerate(("old", "same", "gone")):
        Store(root).commit(made.block(index, count=2 if fingerprint == "old" else 1), fingerprint, FORMATS)


def run(root: str) -> None:
    """What `prepare` does to the disk: lock, describe, tidy up, commit what is missing."""
    store = Store(root)
    with store.lock(None):
        files.write(store.path("config.yaml"), b"{}")
        done = store.clean(EXPECTED)
        for index, name in enumerate(EXPECTED):
            if name not in done:
                store.commit(made.block(index, count=1), EXPECTED[name], FORMATS)


def kill_each(folder: str, count: int) -> None:
    """Run in `folder/0` ... `folder/<count - 1>`, each in a child process that its disk kills at operation 0, 1, ..."""
    run(os.path.join(folder, "first"))  # so that what is imported at first use is not imported in each child
    for at in range(count):
        child = os.fork()
        if not child:
            Disk(at, killing).under(files, pytest.MonkeyPatch())
            run(os.path.join(folder, str(at)))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, at


def tree(root: Path) -> dict[str, bytes]:
    found = [p for p in sorted(root.rglob("*")) if p.is_file() and p.parent.name != "logs"]
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def test_a_run_killed_at_any_operation_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = tmp_path / "straight"
    before(str(straight))
    with monkeypatch.context() as patch:
        disk = Disk().under(files, patch)
        run(str(straight))
    assert {"open", "write", "fsync", "replace", "unlink", "makedirs"} <= set(disk.seen)
    wanted = tree(straight)
    count = len(disk.seen)
    before(str(tmp_path / "before"))
    for at in range(count):
        shutil.copytree(tmp_path / "before", tmp_path / str(at))
    # In a process that has no threads yet, so that it may fork.
    code = f"from {__name__} import kill_each; kill_each({str(tmp_path)!r}, {count})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    for at in range(count):
        root = tmp_path / str(at)
        # What a reader sees now is whole: the rows of some commits, none of them torn.
        assert all(p.left for p in verify(str(root)).problems), disk.seen[at]
        assert sum(1 for _ in Corpus(root).rows()) in (1, 2, 3, 4)
        run(str(root))
        assert tree(root) == wanted, f"killed at operation {at}, {disk.seen[at]}"
        assert not [n for n in os.listdir(root) if n.startswith(".")]
