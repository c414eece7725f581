"""What every benchmark shares: real clips, the machine, a table."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass
class Clip:
    """A clip's samples (mono float32) and its manifest line."""

    samples: np.ndarray
    rate_hz: int
    line: dict

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate_hz


def clips(manifest: str, count: int | None = None) -> list[Clip]:
    """The first `count` clips of a manifest of real speech beside the project. Exits with a message where it is absent."""
    path = DATA / manifest
    if not path.exists():
        raise SystemExit(f"{path}: this benchmark needs the real speech beside the project")
    found = []
    for text in path.read_text().splitlines()[:count]:
        line = json.loads(text)
        samples, rate_hz = soundfile.read(path.parent / line["audio"], dtype="float32", always_2d=True)
        found.append(Clip(samples.mean(axis=1), rate_hz, line))
    return found


def machine(*packages: str) -> str:
    """One line: date, processor, cores, Python and the versions of `packages`."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    model = next((s.partition(":")[2].strip() for s in lines if s.startswith("model name")), platform.machine())
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{date.today()}, {model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
