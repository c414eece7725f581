"""Words and voices of what came back from a codec."""

import numpy as np
import pytest

from pipeline.bench.heard import Voices, similarity, similarity_of_clips, word_error_rate
from schemas import Utterance
from tests.conftest import read_clips


def said(text: str, language: str = "en") -> Utterance:
    return Utterance(text, -1, 0, 1, np.zeros(1, np.float32), 16000, language=language, text=text)


def test_words_are_counted_over_all_clips_together_in_normal_form() -> None:
    clips = [said("Cats, dogs; birds!"), said("Fish."), said("")]
    assert word_error_rate(clips, ["cats dogs birds", "fish", "noise"]) == 0.0
    # One of four words is missing, whichever clip it belongs to; what is heard where nobody knows the words does not count.
    assert word_error_rate(clips, ["cats dogs", "fish", "noise"]) == pytest.approx(1 / 4)
    assert word_error_rate(clips, ["cats dogs birds", "", "noise"]) == pytest.approx(1 / 4)
    assert word_error_rate([said("")], ["noise"]) is None


def test_voices_of_one_reader_are_nearer_than_those_of_two(shared: object) -> None:
    clips = read_clips("librispeech-test-other.jsonl", 14)[4:8]
    speakers = [clip.line["speaker"] for clip in clips]
    assert len(set(speakers)) == 2
    voices = Voices().embed([clip.samples[: 4 * 16000] for clip in clips], 16000)
    same, other = similarity_of_clips(voices, speakers)
    assert same > other + 0.1
    assert similarity(voices, voices) == pytest.approx(1.0, abs=1e-5)
    assert similarity_of_clips(voices, [""] * 4) == (None, None)
    assert similarity_of_clips(voices, ["a", "b", "", ""])[0] is None
