"""Fault 17: when too much is wrong the run says so, with the reasons and an example of each, and exits 1."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline import cli
from pipeline.config import LimitOptions
from pipeline.limits import excesses, fault_share, rejected_share
from pipeline.prepare import Summary
from tests.conftest import Clip
from tests.faults.conftest import LIGHT, manifest


def summary(kept: float = 0.0, count: int = 1, **rejected: float) -> Summary:
    seconds_in = kept + sum(rejected.values())
    return Summary(1, 1, 1, seconds_in, kept, rejected, dict.fromkeys(rejected, count), 0.0)


def test_silence_counts_on_neither_side() -> None:
    assert rejected_share(summary(kept=1.0, no_speech=98.0, silent=1.0)) == 0.0
    assert rejected_share(summary(kept=1.0, no_speech=96.0, unsure=3.0)) == pytest.approx(0.75)
    assert rejected_share(summary(no_speech=10.0)) == 1.0
    assert rejected_share(summary()) == 0.0
    assert excesses(summary(kept=1.0, no_speech=99.0), 1, LimitOptions(max_rejected_share=0.1)) == []


def test_faults_count_by_seconds_or_by_files_whichever_is_more() -> None:
    assert fault_share(summary(kept=60.0, failed=20.0, too_fast=20.0), 10) == pytest.approx(0.2)
    assert fault_share(summary(kept=100.0, missing=0.0, count=6), 10) == pytest.approx(0.6)
    assert fault_share(summary(kept=100.0, truncated=1.0, count=6), 10) == pytest.approx(1 / 101)
    lines = excesses(summary(kept=60.0, failed=20.0, too_fast=20.0), 10, LimitOptions(max_fault_share=0.1))
    assert lines == [
        "20.0% was lost to faults, more than limits.max_fault_share = 10.0% (of the seconds, or of the files)"
    ]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    def run(source: Path, *more: str) -> int:
        (tmp_path / "c.yaml").write_text(f"sources: ['{source}']\n")
        command = ["prepare", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out")]
        for assignment in (*LIGHT, "plan.block_s=6", "filter.min_align_score=null", *more):
            command += ["--set", assignment]
        return cli.main(command)

    return run


def test_missing_files_fail_the_run_and_are_shown(
    clips: list[Clip], run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = manifest(tmp_path / "in", clips[:2])
    assert run(source) == 0
    with source.open("a") as stream:
        for i in range(3):
            stream.write(json.dumps({"audio": f"gone-{i}.flac", "text": "gone"}) + "\n")
    capsys.readouterr()
    assert run(source) == 1
    said = capsys.readouterr().err
    assert "60.0% was lost to faults" in said
    missing = next(line for line in said.splitlines() if line.strip().startswith("missing: 3 times, 0.0 s, such as"))
    assert "gone-0.flac [0.00 .. 0.00 s] in decode" in missing
    assert "No such file" in missing
    assert run(source, "limits.max_fault_share=0.7") == 0


def test_text_that_was_never_said_fails_the_run_and_silence_does_not_hide_it(
    clips: list[Clip], run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = manifest(tmp_path / "in", clips[:2])
    quiet = np.random.default_rng(0).normal(0, 1e-3, 30 * 16000)
    soundfile.write(tmp_path / "in" / "2.flac", quiet, 16000)
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    for line in lines:
        line["text"] = "many more words than anybody could have said in so short a time " * 20
    lines.append({"audio": "2.flac", "text": ""})
    source.write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert run(source) == 1
    said = capsys.readouterr().err
    assert "100.0% of the speech was rejected, more than limits.max_rejected_share = 95.0%" in said
    assert "repeats: 2 times" in said
    assert "text_repeat_share" in said
    assert "no_speech" not in said
