"""Records: ids, conservation, cards, and the documentation printed from the schema."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Block, Commit, Reason, Rejection, Tokenizer, Utterance
from schemas import record as records
from tests import made

ROOT = Path(__file__).resolve().parents[2]


def test_an_id_names_the_audio_not_what_was_found_in_it() -> None:
    first, second = made.utterance(3), made.utterance(3)
    second.text = "something else"
    assert first.id == second.id
    assert len({made.utterance(i).id for i in range(50)}) == 50
    second.end += 1
    assert first.id != second.id


@given(
    st.lists(st.integers(0, 3_000_000), min_size=2, max_size=30, unique=True),
    st.sampled_from([8000, 16000, 22050, 24000, 44100]),
)
def test_seconds_of_rejections_turn_back_into_whole_samples(cuts: list[int], rate_hz: int) -> None:
    cuts.sort()
    block = Block(0, rate_hz, samples_in=cuts[-1] - cuts[0])
    for i, (a, b) in enumerate(itertools.pairwise(cuts)):
        piece = Utterance("s", -1, a, b, np.zeros(0, np.float32), rate_hz)
        if i % 2:
            block.utterances.append(piece)
        else:
            block.reject(piece, "segment", Reason.NO_SPEECH)
    block.check_conserved()
    block.samples_in += 1
    with pytest.raises(AssertionError, match="part-00000"):
        block.check_conserved()


@pytest.mark.parametrize(
    ("card", "samples", "frames"),
    [
        (made.CODEC, 320, 1),
        (made.CODEC, 321, 2),
        (made.CODEC, 0, 0),
        # HuBERT: 400 samples for the first frame, then one every 320.
        (made.UNITS, 399, 0),
        (made.UNITS, 400, 1),
        (made.UNITS, 719, 1),
        (made.UNITS, 720, 2),
    ],
)
def test_frame_counts_follow_the_rule_of_the_card(card: Tokenizer, samples: int, frames: int) -> None:
    assert card.n_frames(samples) == frames


def test_a_word_aligned_card_has_no_frame_count_and_a_round_trip() -> None:
    with pytest.raises(ValueError, match="one frame for each word"):
        made.TASTE.n_frames(16000)
    assert made.TASTE.rate_hz == 0
    assert made.CODEC.bits_per_s == 50 * 4 * 10
    assert Tokenizer.from_json(made.CODEC.as_json()) == made.CODEC


def test_a_commit_record_round_trips() -> None:
    commit = Commit(
        "part-00000", "f", {"data/part-00000.parquet": "0"}, 2, 16000, 48000, 32000, {"silent": 16000}, {"silent": 1}
    )
    assert Commit.from_json(commit.to_json()) == commit
    assert commit.seconds_in == commit.seconds_kept + commit.seconds_rejected == 3.0


def test_every_reason_is_explained() -> None:
    source = (ROOT / "schemas" / "rejection.py").read_text(encoding="utf-8")
    for reason in Reason:
        assert f'{reason.name} = "{reason.value}"\n    """' in source
    assert Rejection("a", 0, 1.0, 2.5, "decode", Reason.CORRUPT).row()["reason"] == "corrupt"


def test_the_documented_schema_is_the_schema() -> None:
    assert records.markdown() in (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "data/../../x", "/etc/passwd", "data/part-00000.parquet/../x", "config.yaml"]
)
def test_a_record_names_files_of_the_corpus_only(name: str) -> None:
    text = Commit("part-00000", "f", {name: "0"}, 0, 16000, 0, 0).to_json()
    with pytest.raises(ValueError, match="no file of a corpus"):
        Commit.from_json(text)
