"""Fault 16, and 24: the same bytes from any runner, any number of processes, any order and any folder."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.prepare import stages_of
from tests.conftest import Clip
from tests.faults.conftest import LIGHT, manifest, tree
from tests.faults.test_09_worker_dies import MODE

ROOT = Path(__file__).resolve().parents[2]
UNITS = "{backend: whisper}"


def command(out: str, sources: str, *more: str) -> list[str]:
    made = [sys.executable, "-m", "pipeline.cli", "prepare", "c.yaml", "--out", out, *more]
    for assignment in (
        *LIGHT,
        "plan.block_s=6",
        "write.formats=[parquet, webdataset]",
        f"units={UNITS}",
        f"sources={sources}",
    ):
        made += ["--set", assignment]
    return made


def shards(root: Path) -> dict[str, bytes]:
    """All but the description of the config, which lists the sources in the order in which they were given."""
    return {name: data for name, data in tree(root).items() if name != "config.yaml"}


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def folder(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`in/` with four clips and a manifest, and `straight/`, made of it by one process in which units ran too."""
    folder = tmp_path_factory.mktemp("same")
    manifest(folder / "in", clips)
    (folder / "c.yaml").write_text("{}\n")
    subprocess.run(command("straight", "[in/m.jsonl]"), cwd=folder, env=environment(), check=True, timeout=300)
    return folder


def test_two_processes_at_once_in_another_folder_give_the_same(folder: Path, tmp_path: Path) -> None:
    """Each makes its half at the same time, and with its sources in another order."""
    shutil.copytree(folder / "in", tmp_path / "in")
    lines = (tmp_path / "in" / "m.jsonl").read_text().splitlines()
    (tmp_path / "in" / "m.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    (tmp_path / "c.yaml").write_text("{}\n")
    halves = [
        subprocess.Popen(command("out", "[in/m.jsonl]", "--blocks", f"{i}/2"), cwd=tmp_path, env=environment())
        for i in range(2)
    ]
    assert [half.wait(300) for half in halves] == [0, 0]
    assert shards(tmp_path / "out") == shards(folder / "straight")


def test_worker_processes_of_beam_give_the_same(folder: Path, tmp_path: Path) -> None:
    """Blocks and stages are pickled, sent to two other processes, and done in whatever order."""
    shutil.copytree(folder / "in", tmp_path / "in")
    (tmp_path / "c.yaml").write_text("{}\n")
    done = subprocess.run(
        command("out", "[in/m.jsonl]", *MODE),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert tree(tmp_path / "out") == tree(folder / "straight")


def test_every_stage_travels_before_it_is_set_up() -> None:
    """Fault 24."""
    for stage in stages_of(load(None, ["taste=null"])):
        again = pickle.loads(pickle.dumps(stage))
        assert type(again) is type(stage)
        assert again.fingerprint() == stage.fingerprint()
