"""Grouping of voices, on embeddings whose speakers are known."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.speaker.clustering import Turn, cluster, in_order, majority, spoken, turns


def voices(speakers: list[int], spread: float = 0.02) -> np.ndarray:
    """`[N, 8]` of length 1: each speaker near an axis of his own."""
    made = np.eye(8)[speakers] + np.random.default_rng(0).normal(0, spread, (len(speakers), 8))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def test_speakers_are_found_and_numbered_as_they_come() -> None:
    said = [3, 3, 1, 1, 3, 0, 0, 1]
    assert cluster(voices(said), 0.4).tolist() == [0, 0, 1, 1, 0, 2, 2, 1]
    assert cluster(voices(said), 0.999999).max() <= 2
    assert cluster(voices([]), 0.4).tolist() == []
    assert cluster(voices([5]), 0.4).tolist() == [0]


def test_a_small_group_goes_to_the_nearest_large_one() -> None:
    made = voices([0, 0, 0, 1, 1, 1, 2])
    made[-1] = 0.6 * made[3] + 0.8 * made[-1]
    assert cluster(made, 0.3, 1)[-1] == 2
    assert cluster(made, 0.3, 2).tolist() == [0, 0, 0, 1, 1, 1, 1]
    # Where every group is small there is nobody to go to.
    assert cluster(voices([0, 1, 2]), 0.3, 2).tolist() == [0, 1, 2]


@given(st.lists(st.integers(-5, 5), max_size=30))
def test_order_changes_the_numbers_and_nothing_else(groups: list[int]) -> None:
    found = in_order(np.array(groups, int)).tolist()
    firsts = list(dict.fromkeys(found))
    assert firsts == list(range(len(firsts)))
    assert len(set(zip(groups, found, strict=True))) == len(set(groups)) == len(set(found))


def test_the_majority_has_its_share() -> None:
    assert majority([2, 0, 2, 2]) == (2, 0.75)
    assert majority([1, 0]) == (0, 0.5)


def test_windows_of_silence_do_not_count() -> None:
    speech = np.zeros(320, bool)
    speech[100:] = True  # from 3.2 s on, of 10.24 s
    first = [0, 160, 320, 480]
    assert spoken(first, speech, 0.032).tolist() == [False, False, True, True]
    assert spoken(first, np.zeros(320, bool), 0.032).all()


def test_turns_cover_the_speech_and_nothing_but_the_speech() -> None:
    speech = np.ones(100, bool)
    speech[40:50] = False
    # Windows of 1.6 s at 0, 1.6 and 3.2 s; the speaker changes between the last two, at 3.2 s.
    found = turns([0, 160, 320], np.array([0, 0, 1]), speech, 0.048)
    assert [turn.speaker for turn in found] == [0, 0, 1]
    np.testing.assert_allclose([t[:2] for t in found], [(0, 40 * 0.048), (50 * 0.048, 67 * 0.048), (67 * 0.048, 4.8)])
    assert turns([0], np.array([0]), np.zeros(10, bool), 0.032) == []
    assert turns([0], np.array([0]), np.ones(10, bool), 0.5) == [Turn(0.0, 5.0, 0)]
