"""Fault 13: two runs into one folder, and what a larger or a killed run before left there."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.store import Store
from pipeline.train import run_train
from pipeline.verify import verify
from schemas.errors import UserError
from tests import made
from tests.conftest import Clip
from tests.faults.conftest import LIGHT, make, manifest, settings, tree
from training.options import TrainOptions

ROOT = Path(__file__).resolve().parents[2]


def test_the_second_run_refuses_and_names_the_first(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Real processes: the first is stopped in the middle while the second tries, and then goes on."""
    out, config = tmp_path / "out", tmp_path / "c.yaml"
    config.write_text(f"sources: ['{source}']\n")
    arguments = ["prepare", str(config), "--out", str(out)]
    for assignment in (*LIGHT, "plan.block_s=6"):
        arguments += ["--set", assignment]
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not (out / ".run-all").exists() or not (out / ".run-all").read_text():
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        assert cli.main(arguments) == 2
        who = f"{out}: process {first.pid} on {socket.gethostname()} is writing there"
        assert who in capfd.readouterr().err
        assert cli.main([*arguments, "--blocks", "0/2"]) == 2
        assert who in capfd.readouterr().err
        first.send_signal(signal.SIGCONT)
        assert first.wait(240) in (0, 1)
    finally:
        first.kill()
        first.wait()
    assert verify(str(out)).problems == []


def test_notes_of_killed_runs_block_nobody_and_go(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (".run-all", ".run-0-of-2", ".run-5-of-7"):
        (out / name).write_text("process 1 on elsewhere")
    make(settings(source), out, part=(0, 2))
    make(settings(source), out, part=(1, 2))
    assert not [n for n in os.listdir(out) if n.startswith(".")]


@pytest.mark.parametrize("parts", [None, 2])
def test_shards_of_a_larger_run_go(clips: list[Clip], tmp_path: Path, parts: int | None) -> None:
    """Also where every run is a part of the whole."""
    out = tmp_path / "out"
    make(settings(manifest(tmp_path / "in", clips)), out)
    assert len(Store(str(out)).commits()) == 4
    small = settings(manifest(tmp_path / "in", clips[:2]))
    for part in [None] if parts is None else [(i, parts) for i in range(parts)]:
        make(small, out, part=part)
    make(small, tmp_path / "straight")
    assert tree(out) == tree(tmp_path / "straight")


def test_a_part_leaves_what_other_parts_are_writing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for index in range(4):
        store.commit(made.block(index), "f", ["parquet"])
    for index in range(4):
        (tmp_path / "data" / f".tmp-99ab12-part-{index:05d}.parquet").touch()
    kept = store.clean({"part-00000": "f", "part-00001": "f"}, lambda name: int(name[-5:]) % 2 == 0)
    assert set(kept) == {"part-00000", "part-00001"}
    assert set(store.commits()) == {"part-00000", "part-00001", "part-00003"}
    left = {p.name[-13:-8] for p in (tmp_path / "data").iterdir() if p.name.startswith(".tmp")}
    assert left == {"00001", "00003"}


def test_two_trainings_into_one_folder_refuse_each_other(tmp_path: Path) -> None:
    with (
        Store(str(tmp_path / "out")).lock(None),
        pytest.raises(UserError, match=f"process {os.getpid()} on .* is writing"),
    ):
        run_train(TrainOptions(trunk=str(tmp_path)), ["corpus"], str(tmp_path / "out"))
