"""Fault 9, beside tests/pipeline/test_kills.py: a worker process of Beam's multi-processing mode dies, and nobody waits for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.runners import _descendants
from pipeline.verify import verify
from tests.faults.conftest import LIGHT, make, settings, tree

ROOT = Path(__file__).resolve().parents[2]
MODE = ("--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")


def workers(pid: int) -> list[int]:
    """Beam's worker processes below `pid`."""
    found = []
    for child in _descendants(pid):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"sdk_worker_main" in line and not line.startswith((b"/bin/sh", b"sh")):
            found.append(child)
    return found


def test_the_run_ends_with_a_reason_and_the_next_completes(source: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "out", tmp_path / "c.yaml"
    config.write_text(f"sources: ['{source}']\n")
    command = [sys.executable, "-m", "pipeline.cli", "prepare", str(config), "--out", str(out), *MODE]
    for assignment in (*LIGHT, "plan.block_s=6", "write.formats=[parquet, webdataset]"):
        command += ["--set", assignment]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        deadline = time.monotonic() + 240
        while not (found := workers(process.pid)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(found[0], signal.SIGKILL)
        _, said = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 2
    assert "a worker process died" in said
    assert "multi-processing mode is slower" in said
    for worker in found:
        for _ in range(100):
            if not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2]:
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"worker {worker} is still there")
    make(settings(source), out)
    assert verify(str(out)).problems == []
    make(settings(source), tmp_path / "straight")
    assert tree(out) == tree(tmp_path / "straight")
