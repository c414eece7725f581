"""Frames of words and phones: they rise, add up and lose nothing, and a phone's units are found where they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Clip
from transforms.taste.phones import BOUNDARIES, PhoneReader, Read
from transforms.taste.timing import phone_frames, word_spans

TIMES = st.lists(st.floats(0, 30), min_size=2, max_size=60).map(sorted)


@given(TIMES, st.integers(1, 1600))
def test_every_word_has_a_frame_of_its_own_in_the_utterance(times: list[float], n_frames: int) -> None:
    starts, ends = times[: len(times) // 2 * 2 : 2], times[1::2]
    if len(starts) > n_frames:
        with pytest.raises(ValueError, match=f"{n_frames} frames of units for {len(starts)} words"):
            word_spans(starts, ends, n_frames)
        return
    spans = word_spans(starts, ends, n_frames)
    assert (spans[:, 1] > spans[:, 0]).all()
    assert (spans[1:, 0] >= spans[:-1, 1]).all()
    assert spans[0, 0] >= 0
    assert spans[-1, 1] <= n_frames


def test_where_times_leave_room_they_are_kept_to_the_frame() -> None:
    assert word_spans([0.1, 0.5], [0.3, 0.51], 100).tolist() == [[5, 15], [25, 26]]


SPACE = int(BOUNDARIES[-1])


def drawn(lengths: list[list[int]], rng: np.random.Generator) -> tuple[list[np.ndarray], list[Read], list[np.ndarray]]:
    """Utterances of one word each, after a pause of 2 frames and before one of 3, of phones that last so long. Phone p sounds as
    units 4 p to 4 p + 3; pauses as unit 0."""
    units, reads, spans = [], [], []
    for runs in lengths:
        phones = rng.permutation(6)[: len(runs)] + 1
        said = np.concatenate([4 * p + rng.integers(0, 4, n) for p, n in zip(phones, runs, strict=True)])
        units.append(np.concatenate([[0, 0], said, [0, 0, 0]]))
        reads.append(Read(np.array([SPACE, *phones, SPACE]), np.zeros(len(runs) + 2, dtype=np.int64)))
        spans.append(np.array([[2, 2 + len(said)]]))
    return units, reads, spans


def test_phones_are_found_by_the_units_that_they_sound_as() -> None:
    rng = np.random.default_rng(0)
    lengths = [rng.integers(1, 15, rng.integers(1, 6)).tolist() for _ in range(300)]
    found = phone_frames(*drawn(lengths, rng), n_units=40)
    wrong = sum(f.tolist() != [2, *runs, 3] for f, runs in zip(found, lengths, strict=True))
    even = sum(len(set(runs)) > 1 for runs in lengths)
    assert wrong < 0.02 * even


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=8), st.integers(0, 9))
def test_frames_are_conserved_word_by_word(lengths: list[list[int]], seed: int) -> None:
    units, reads, spans = drawn(lengths, np.random.default_rng(seed))
    for frames, runs in zip(phone_frames(units, reads, spans, 40), lengths, strict=True):
        assert (frames[0], frames[1:-1].sum(), frames[-1]) == (2, sum(runs), 3)
        assert frames[1:-1].min() >= 1


def test_a_word_with_fewer_frames_than_phones_is_cut_evenly() -> None:
    read = Read(np.array([SPACE, 1, 2, 3, 4, SPACE]), np.zeros(6, dtype=np.int64))
    (frames,) = phone_frames([np.arange(5)], [read], [np.array([[1, 3]])], 10)
    assert frames.tolist() == [1, 0, 1, 0, 1, 2]


def test_real_words_times_and_phones_fit_together(speech: list[Clip]) -> None:
    """Even word times of real texts: each boundary as long as the pause, each word's phones as long as the word."""
    reader = PhoneReader("en")
    for clip in speech:
        words = clip.text.split()
        n_frames = len(clip.samples) * 50 // clip.rate_hz
        starts = np.linspace(0.1, n_frames / 50 - 0.5, len(words))
        spans = word_spans(starts.tolist(), (starts + 0.02).tolist(), n_frames)
        read = reader(words)
        (frames,) = phone_frames([np.zeros(n_frames, dtype=np.int64)], [read], [spans], 1)
        said = ~np.isin(read.ids, BOUNDARIES)
        assert frames.sum() == n_frames
        assert np.bincount(read.word_ids[said], weights=frames[said]).tolist() == np.diff(spans)[:, 0].tolist()
        assert frames[0] == spans[0, 0]
