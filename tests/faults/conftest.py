"""Small jobs on real speech for the tests of faults: the text is given, so that a run takes a second or two."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, load
from pipeline.prepare import Summary, plan_of, prepare, stages_of
from tests.conftest import Clip

LIGHT = ("transcribe.backend=given", "units=null", "codec=null", "taste=null")
FORMATS = "write.formats=[parquet, webdataset]"


@pytest.fixture(scope="session")
def clips(speech: list[Clip]) -> list[Clip]:
    """The four shortest clips, shortest first: 2.8 to 7.4 s."""
    return sorted(speech, key=lambda clip: len(clip.samples))[:4]


@pytest.fixture
def source(clips: list[Clip], tmp_path: Path) -> Path:
    """A manifest of the first three clips, one a block, beside their audio."""
    return manifest(tmp_path / "in", clips[:3])


def manifest(folder: Path, clips: Sequence[Clip]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = []
    for i, clip in enumerate(clips):
        name = f"{i}.flac"
        shutil.copy(clip.path, folder / name)
        fields = {"audio": name, "text": clip.text, "language": "en", "duration": len(clip.samples) / clip.rate_hz}
        lines.append(json.dumps(fields))
    (folder / "m.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "m.jsonl"


def settings(source: Path | str, *more: str) -> Config:
    return load(None, [f"sources=['{source}']", *LIGHT, "plan.block_s=6", FORMATS, *more])


def make(config: Config, out: Path, **more: Any) -> Summary:
    say: Callable[[str], None] = more.pop("say", lambda line: None)
    return prepare(config, plan_of(config), stages_of(config), str(out), say=say, **more)


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a corpus but the logs, whose times differ from run to run."""
    found = [p for p in sorted(root.rglob("*")) if p.is_file() and p.parent.name != "logs"]
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def made_at(out: Path) -> dict[str, int]:
    """When each block was committed."""
    return {p.stem: p.stat().st_mtime_ns for p in (out / "commits").iterdir()}
