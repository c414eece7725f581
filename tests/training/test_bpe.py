"""Unit BPE: exact both ways, whatever is merged and wherever words end."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from training.bpe import MAX_UNITS, Tokens, UnitBPE, fit
from training.layouts.spans import word_borders

K = 6
_unit = st.integers(0, K - 1)


@st.composite
def runs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """De-duplicated units and their lengths."""
    frames = np.array(draw(st.lists(_unit, max_size=60)), dtype=np.int64)
    units = frames[np.flatnonzero(np.diff(frames, prepend=-1))]
    lengths = draw(st.lists(st.integers(1, 9), min_size=len(units), max_size=len(units)))
    return units, np.array(lengths, dtype=np.int64)


def _spoken() -> list[tuple[np.ndarray, np.ndarray, list[int]]]:
    """Forty sayings of four words, the first unit of each lasting two frames."""
    random = np.random.default_rng(0)
    words = [np.array(w) for w in ([0, 1, 2], [3, 4], [5, 0, 3, 1], [2, 4])]
    said = []
    for _ in range(40):
        units = np.concatenate([words[i] for i in random.integers(0, 4, 30)])
        units = units[np.flatnonzero(np.diff(units, prepend=-1))]
        said.append((units, 1 + (units % 2), []))
    return said


@pytest.fixture(scope="module")
def made() -> UnitBPE:
    return fit(_spoken(), K, 40, inside_words=False, revision="abc")


@pytest.fixture(scope="module")
def of_frames() -> UnitBPE:
    return fit(_spoken(), K, 60, inside_words=False, deduplicate=False, revision="abc")


@given(spoken=runs(), cuts=st.sets(st.integers(1, 59)))
def test_decode_takes_encode_back(
    made: UnitBPE, of_frames: UnitBPE, spoken: tuple[np.ndarray, np.ndarray], cuts: set[int]
) -> None:
    units, run_lengths = spoken
    ends = sorted(c for c in cuts if c < len(units))
    for bpe in (made, of_frames):
        tokens = bpe.encode(units, run_lengths, ends)
        back = bpe.decode(tokens)
        np.testing.assert_array_equal(back.units, units)
        np.testing.assert_array_equal(back.run_lengths, run_lengths)
        assert tokens.durations.sum() == run_lengths.sum()
        assert len(tokens.ids) == len(tokens.durations) <= (len(units) if bpe is made else run_lengths.sum())
        # No token lies on both sides of a cut, by the units or, in tokens of frames, by the frames.
        at = np.cumsum(np.concatenate([[0], run_lengths]))
        assert {int(at[end]) for end in ends} <= {0, *np.cumsum(tokens.durations).tolist()}
    # Tokens of frames say all of it without the run lengths beside them.
    said = of_frames.runs(tokens.ids)
    np.testing.assert_array_equal(said.units, units)
    np.testing.assert_array_equal(said.run_lengths, run_lengths)
    assert made.runs(made.encode(units, run_lengths).ids).units.tolist() == units.tolist()


def test_how_long_a_token_lasts_is_measured_where_it_is_fitted(made: UnitBPE, of_frames: UnitBPE) -> None:
    for bpe in (made, of_frames):
        tokens = [bpe.encode(units, run_lengths) for units, run_lengths, _ in _spoken()]
        n_frames, n_tokens = sum(t.durations.sum() for t in tokens), sum(len(t.ids) for t in tokens)
        assert bpe.frames_per_token == n_frames / n_tokens > 2
    assert any(len(set(s.tolist())) < len(s) for s in of_frames.spelled)  # repeats are in its tokens


@given(spoken=runs())
def test_shared_out_durations_sum_up(made: UnitBPE, spoken: tuple[np.ndarray, np.ndarray]) -> None:
    tokens = made.encode(*spoken)
    shared = made.share_out(tokens.ids, tokens.durations)
    np.testing.assert_array_equal(shared.units, spoken[0])
    assert shared.run_lengths.sum() == spoken[1].sum()
    assert (shared.run_lengths >= 1).all()


def test_what_follows_each_other_is_one_token(made: UnitBPE) -> None:
    tokens = made.encode(np.array([0, 1, 2, 3, 4]), np.array([2, 1, 1, 5, 1]))
    assert len(tokens.ids) < 5
    assert made.encode(np.array([0, 1, 2]), np.ones(3, dtype=int), [1, 2]).ids.tolist() == [0, 1, 2]


def test_merges_stay_inside_words_where_they_are_told_to() -> None:
    units = np.array([0, 1, 2, 3] * 50)
    once = np.ones(200, dtype=int)
    kept = fit([(units, once, range(2, 200, 2))], 4, 20, inside_words=True)
    assert sorted(s.tolist() for s in kept.spelled[4:]) == [[0, 1], [2, 3]]
    free = fit([(units, once, range(2, 200, 2))], 4, 20, inside_words=False)
    assert [0, 1, 2, 3] in [s.tolist() for s in free.spelled]


def test_a_file_gives_the_same_tokens(made: UnitBPE, tmp_path: Path) -> None:
    made.save(tmp_path / "bpe.json")
    again = UnitBPE.load(tmp_path / "bpe.json")
    assert (again.size, again.n_units, again.revision) == (made.size, K, "abc")
    units = np.array([5, 0, 3, 1, 3, 4, 2])
    np.testing.assert_array_equal(again.encode(units, units + 1).ids, made.encode(units, units + 1).ids)
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "bpe.json").read_bytes()
    assert again.sha256 == made.sha256 == hashlib.sha256((tmp_path / "bpe.json").read_bytes()).hexdigest()
    assert (again.deduplicated, again.frames_per_token) == (True, made.frames_per_token)
    (tmp_path / "other.json").write_text('{"kind": "text"}')
    with pytest.raises(UserError, match=r"other\.json: not a file that `antiphon fit bpe` wrote"):
        UnitBPE.load(tmp_path / "other.json")


def test_words_meet_between_runs() -> None:
    # Runs of 2, 4 and 2 frames at 50 Hz: their middles lie at 20, 80 and 140 ms.
    run_lengths, starts_s = np.array([2, 4, 2]), np.array([0.0, 0.05, 0.1])
    assert word_borders(starts_s, np.array([0.01, 0.1, 0.2]), run_lengths, 50.0).tolist() == [1, 2]
    assert word_borders(starts_s[:2], np.array([0.03, 9.0]), run_lengths, 50.0).tolist() == [1]
    assert word_borders(np.zeros(0), np.zeros(0), run_lengths, 50.0).tolist() == []
    assert word_borders(np.array([0.0, 9.0]), np.array([0.1, 9.1]), np.zeros(0, dtype=int), 50.0).tolist() == [0]


def test_wrong_input_is_refused(made: UnitBPE) -> None:
    with pytest.raises(ValueError, match="units from 0 to 6; the vocabulary merges 6"):
        made.encode(np.array([0, 6]), np.array([1, 1]))
    with pytest.raises(ValueError, match="2 units and 1 run lengths"):
        made.encode(np.array([0, 1]), np.array([1]))
    with pytest.raises(ValueError, match="the vocabulary has"):
        made.units(np.array([99]))
    tokens = made.encode(np.array([0, 1]), np.array([1, 2]))
    with pytest.raises(ValueError, match="not the sums"):
        made.decode(Tokens(tokens.ids, tokens.durations + 1, tokens.run_lengths))
    with pytest.raises(ValueError, match=f"1 to {MAX_UNITS} can be merged"):
        fit([], MAX_UNITS + 1, MAX_UNITS + 2, inside_words=False)
