"""Speakers, labels and thresholds of sound, from config to row."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load
from pipeline.inspect import read_rows
from pipeline.prepare import plan_of, prepare, stages_of
from tests.conftest import read_clips
from tests.transforms.test_label import NAMES, save


@pytest.fixture(scope="module")
def assignments(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A manifest of two readers, of whom one has a name, and a small classifier."""
    folder = tmp_path_factory.mktemp("readers")
    clips = sorted(read_clips("librispeech-test-other.jsonl", 12)[::6], key=lambda clip: len(clip.samples))
    lines = [
        {"audio": str(clip.path), "text": clip.text, "id": f"r{i}", "language": "en"} for i, clip in enumerate(clips)
    ]
    lines[0]["speaker"] = "Ann"
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = save("wav2vec2", folder / "mood")
    stages = [
        "units=null",
        "codec=null",
        "taste=null",
        "transcribe.backend=given",
        "align.backend=phones",
        "speaker={}",
    ]
    return [f"sources=['{folder}/m.jsonl']", f"label={{models: [{{name: mood, model: '{model}', top: 3}}]}}", *stages]


def rows(settings: list[str], out: Path, what: str = "data") -> list[dict[str, Any]]:
    config = load(None, settings)
    prepare(config, plan_of(config), stages_of(config), str(out), say=lambda line: None)
    return list(read_rows(str(out), what))


def test_rows_say_who_and_how_and_the_same_twice(assignments: list[str], tmp_path: Path) -> None:
    found = rows(assignments, tmp_path / "a")
    assert [row["speaker"] for row in found] == ["Ann", "r1#0.00/0"]
    for row in found:
        assert len(row["speaker_embedding"]) == 256
        assert row["speaker_share"] > 0.9
        assert [label["name"] for label in row["labels"]] == ["mood"] * 3
        assert {label["label"] for label in row["labels"]} == set(NAMES.values())
        assert 60 < row["quality_pitch_low_hz"] <= row["quality_pitch_hz"] <= row["quality_pitch_high_hz"] < 500
        assert 1 < row["quality_words_per_s"] < 6
        assert row["quality_dnsmos"] is None
    rows(assignments, tmp_path / "b")
    shards = [tmp_path / name / "data" / "part-00000.parquet" for name in "ab"]
    assert shards[0].read_bytes() == shards[1].read_bytes()


def test_poor_sound_is_a_reason(assignments: list[str], tmp_path: Path) -> None:
    lost = rows([*assignments, "speaker=null", "label=null", "filter.min_snr_db=200"], tmp_path / "c", "rejected")
    assert [line["reason"] for line in lost] == ["poor_sound"] * 2
    assert all("quality_snr_db" in line["detail"] and "< 200.00" in line["detail"] for line in lost)
