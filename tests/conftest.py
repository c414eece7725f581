"""Fixtures that all tests share: real speech and weights from the folder beside the project, where it is there."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# Before any model library is imported: nothing may reach for the network, and two cores are enough for small models.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if (SHARED / "models").is_dir():
    os.environ.setdefault("ANTIPHON_MODELS", str(SHARED / "models"))


def _skipping_without_weights() -> Iterator[None]:
    from transforms.weights import MissingWeights

    try:
        return (yield)
    except MissingWeights as error:
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """A fixture that needs weights which are not on this machine skips its tests, and says which."""
    return (yield from _skipping_without_weights())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that needs weights which are not on this machine is skipped, and says which."""
    return (yield from _skipping_without_weights())


@dataclass
class Clip:
    """A clip of real speech: its manifest line and its samples."""

    path: Path
    line: dict[str, Any]
    samples: np.ndarray
    rate_hz: int

    @property
    def text(self) -> str:
        return str(self.line["text"])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real speech and weights; a test that needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (real speech and weights), which is not beside this checkout")
    return SHARED


def read_clips(manifest: str, count: int) -> list[Clip]:
    """The first `count` clips of a manifest in ../shared/data, as mono float32 at their own rate."""
    import soundfile

    clips = []
    for text in (SHARED / "data" / manifest).read_text().splitlines()[:count]:
        line = json.loads(text)
        path = SHARED / "data" / line["audio"]
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        clips.append(Clip(path, line, samples.mean(axis=1), rate_hz))
    return clips


@pytest.fixture(scope="session")
def speech(shared: Path) -> list[Clip]:
    """Six clips of LibriSpeech test-other, 16 kHz, many readers."""
    return read_clips("librispeech-test-other.jsonl", 6)


@pytest.fixture(scope="session")
def ljspeech(shared: Path) -> list[Clip]:
    """Six clips of LJSpeech, 22.05 kHz, with word times by the Montreal Forced Aligner."""
    return read_clips("ljspeech.jsonl", 6)
