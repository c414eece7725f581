"""Faults of inputs that no single file of the zoo shows: words in silence, very long files, odd texts, odd environments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.plan import PlanOptions, make_plan
from pipeline.sources import find_sources
from schemas import Block, Piece, Reason
from tests.conftest import ROOT, Clip
from transforms import contain
from transforms.align.stage import Align, AlignOptions
from transforms.decode import Decode, DecodeOptions
from transforms.filter import Filter, FilterOptions
from transforms.measure import Measure, MeasureOptions
from transforms.segment import Segment, SegmentOptions
from transforms.stage import Stage
from transforms.transcribe.stage import Transcribe, TranscribeOptions

RATE_HZ = 16000


@pytest.mark.parametrize(
    "kind", ["silence", "dc", "noise", "faint noise", "hum", "chord", "clicks", "square", "upsampled noise"]
)
def test_fault_03_what_is_not_speech_never_reaches_the_recogniser(kind: str) -> None:
    """So that it cannot hear "Thank you." in it."""
    random = np.random.default_rng(0)
    t = np.arange(10 * RATE_HZ) / RATE_HZ
    noise = random.standard_normal(len(t))
    sound = {
        "silence": 0 * t,
        "dc": 0 * t + 0.7,
        "noise": 0.2 * noise,
        "faint noise": 1e-4 * noise,
        "hum": 0.5 * np.sin(2 * np.pi * 50 * t),
        "chord": sum(0.2 * np.sin(2 * np.pi * f * t) for f in (261.6, 329.6, 392.0)),
        "clicks": (np.arange(len(t)) % 8000 == 0).astype(float),
        "square": np.sign(np.sin(2 * np.pi * 440 * t)),
        "upsampled noise": np.repeat(0.2 * noise[::2], 2),
    }[kind]
    block = Block(0, RATE_HZ, samples_in=len(t), pieces=[Piece(kind, "", "f", samples={-1: sound.astype(np.float32)})])
    segment = Segment(SegmentOptions())
    segment.setup()
    segment(block)
    assert block.utterances == []
    assert {r.reason for r in block.rejections} <= {Reason.SILENT, Reason.NO_SPEECH, Reason.TOO_SHORT}
    block.check_conserved()


def test_fault_04_a_long_file_takes_the_memory_of_a_block(tmp_path: Path) -> None:
    """Two hours, in blocks of five minutes: the decoder's peak, and what a block holds. benchmarks/long_and_many.py does ten."""
    path = tmp_path / "long.flac"
    minute = (0.1 * np.random.default_rng(0).standard_normal(60 * 8000)).astype(np.float32)
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16") as stream:
        for _ in range(120):
            stream.write(minute)
    blocks = make_plan(find_sources([str(path)]), PlanOptions(), rate_hz=8000)
    assert len(blocks) == 24
    samples = 0
    for block in blocks:
        Decode(DecodeOptions(rate_hz=8000))(block)
        (piece,) = block.pieces
        assert len(piece.samples[-1]) < 1.5 * 300 * 8000
        samples += len(piece.samples[-1])
        piece.samples = {}
    assert samples == 2 * 3600 * 8000
    for pid in contain.pids():
        (peak,) = [s for s in Path(f"/proc/{pid}/status").read_text().splitlines() if s.startswith("VmHWM")]
        assert int(peak.split()[1]) < 200_000, peak  # kB; the two hours are 230 MB


TEXTS = [
    "in 2014 it cost £13.60, i.e. 100 % more",
    "\U0001f600 \U0001f1eb\U0001f1f7 ❤️",
    "今日は良い天気です 你好",
    "שלום עולם مرحبا بالعالم",
    "e\u0301 \u202eabc\u202c \ufeff \x00 \x1b[2J",
    "--- ... !!! ###",
    "word " * 400,
    "x" * 5000,
    "a",
    "",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_fault_05_a_text_that_cannot_be_aligned_ends_in_a_row_or_a_reason(speech: list[Clip], text: str) -> None:
    clip = min(speech, key=lambda clip: len(clip.samples))
    piece = Piece("a", "", "f", given={"text": text, "language": "en"}, samples={-1: clip.samples})
    block = Block(0, RATE_HZ, samples_in=len(clip.samples), pieces=[piece])
    stages: list[Stage] = [Segment(SegmentOptions(backend="none")), Transcribe(TranscribeOptions(backend="given"))]
    stages += [Align(AlignOptions()), Measure(MeasureOptions()), Filter(FilterOptions(), "joint")]
    for stage in stages:
        stage.setup()
        stage(block)
    block.check_conserved()
    for utterance in block.utterances:
        assert [word.text for word in utterance.words] == text.split()
        for word in utterance.words:
            assert -1e-6 <= word.start_s <= word.end_s <= utterance.duration_s + 1e-6
    reasons = {r.reason for r in block.rejections}
    assert reasons <= {Reason.NO_TEXT, Reason.UNALIGNED, Reason.TOO_FAST, Reason.REPEATS}
    assert reasons or block.utterances


def test_fault_23_clock_locale_and_folder_do_not_change_the_plan(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ["ünï.wav", "b.wav", "A.wav", os.fsdecode(b"\xff.wav")]:
        soundfile.write(folder / "x.wav", np.random.default_rng(len(name)).uniform(-0.1, 0.1, 8000), 8000)
        shutil.move(folder / "x.wav", folder / name)
    (tmp_path / "c.yaml").write_text(f"sources: ['{folder}']")
    plans = set()
    for environment in (
        {"LC_ALL": "C", "TZ": "UTC"},
        {"LC_ALL": "C.UTF-8", "TZ": "Pacific/Chatham", "PYTHONHASHSEED": "7"},
    ):
        command = [sys.executable, "-m", "pipeline.cli", "plan", str(tmp_path / "c.yaml")]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, timeout=300, check=True
        )
        plans.add(done.stdout)
    (plan,) = plans
    names = {Path(piece["source"]).name for line in plan.splitlines() for piece in json.loads(line)["pieces"]}
    assert names == {"ünï.wav", "b.wav", "A.wav", "\\xff.wav"}
