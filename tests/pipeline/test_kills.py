"""Ten kills at random instants of `antiphon prepare`, and what is left. `benchmarks.kills` does two hundred, and `train`."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("jiwer", reason="benchmarks need the development packages")

from benchmarks import kills

# Imported once in the process that forks the others; our own modules are not, since a child is to take them from this checkout.
_HEAVY = [
    "apache_beam",
    "pyarrow.parquet",
    "torch",
    "whisper",
    "av",
    "soundfile",
    "onnxruntime",
    "pocketsphinx",
    "soxr",
]


def run(trace: str, log: str, arguments: Sequence[str]) -> None:
    os.setsid()
    with open(log, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.exit(kills.traced(trace, arguments))


class Forked(kills.Process):
    """The command in a process that has the heavy imports behind it, so that kills fall into the work."""

    def __init__(self, arguments: Sequence[str], trace: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_HEAVY)
        self._log = open(trace.with_suffix(".log"), "w+b")  # noqa: SIM115
        self._child = context.Process(target=run, args=(str(trace), self._log.name, list(arguments)))
        self._child.start()

    def wait(self, timeout_s: float | None) -> int | None:
        self._child.join(timeout_s)
        return self._child.exitcode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # its decoder too
            os.killpg(self._child.pid or 0, signal.SIGKILL)
        self._child.kill()
        self._child.join()


def test_ten_kills_at_random_instants_lose_nothing(shared: Path, tmp_path: Path) -> None:
    """Faults 9 and 10: byte-identical, nothing left behind, at most one block done again for a kill, none twice committed."""
    config = kills.write_config(tmp_path / "in", 5, 5.0, "given", "codec: null")
    tally = kills.hunt(kills.prepare_job("prepare", config), 10, tmp_path, seed=1, start=Forked)
    assert tally.wrong == []
    assert tally.kills == 10
    assert tally.finished >= 1
    assert tally.files >= 22 * tally.finished  # five blocks of four files, config.yaml and plan.jsonl
    assert tally.at_work > 0
    assert tally.most_again <= 1
    assert tally.redone == 0
