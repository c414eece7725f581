"""What a token stream costs: entropies and a code that could really be sent."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bench.streams import adaptive_bits, describe, distinct_frames, entropy_bits, run_lengths
from transforms.units.kmeans import dedup

symbols = st.lists(st.integers(0, 7), max_size=60).map(lambda x: np.array(x, dtype=np.int64))


def test_a_constant_stream_has_no_entropy_and_a_uniform_one_has_all() -> None:
    assert entropy_bits(np.full(500, 3)) == 0.0
    assert entropy_bits(np.arange(64).repeat(5)) == pytest.approx(6.0)
    assert entropy_bits(np.zeros(0, dtype=int)) == 0.0


@given(symbols)
def test_entropy_lies_between_nothing_and_that_of_as_many_equal_symbols(x: np.ndarray) -> None:
    assert -1e-12 <= entropy_bits(x) <= math.log2(max(1, len(set(x.tolist())))) + 1e-9


@pytest.mark.parametrize(("size", "length"), [(1, 6), (2, 7), (3, 5)])
def test_the_coder_s_probabilities_of_all_sequences_sum_to_one(size: int, length: int) -> None:
    """Were the sum more than 1, no decoder could tell the sequences apart; less, and the rate would be too high."""
    every = itertools.product(range(size), repeat=length)
    total = sum(2.0 ** -adaptive_bits([np.array(x[:3]), np.array(x[3:])], size) for x in every)
    assert total == pytest.approx(1.0)


def test_the_coder_learns_what_repeats_and_gains_nothing_from_noise() -> None:
    cycle = np.tile(np.arange(8), 250)
    noise = np.random.default_rng(0).integers(0, 8, 2000)
    assert adaptive_bits([np.zeros(2000, dtype=int)], 8) < 40
    assert adaptive_bits([cycle], 8) < 0.1 * len(cycle) * entropy_bits(cycle)
    assert 3 * 2000 <= adaptive_bits([noise], 8) < 1.05 * 3 * 2000


@given(symbols)
def test_runs_are_those_of_the_units_stage(x: np.ndarray) -> None:
    units, lengths = dedup(x)
    np.testing.assert_array_equal(run_lengths(x), lengths)
    assert distinct_frames(x[None]) == len(units)


def test_the_report_of_two_codebooks() -> None:
    codes = np.array([[0, 0, 1, 1], [0, 0, 0, 3]])
    report = describe([codes, codes], (2, 4), seconds=4.0)
    assert (report.frames, report.frames_per_s, report.raw_bits_per_s) == (8, 2.0, 2.0 * (1 + 2))
    assert report.distinct_frames_per_s == 2 * 3 / 4.0
    assert report.used_shares == [1.0, 0.5]
    assert report.mean_runs == [2.0, 2.0]
    assert report.repeat_shares == [0.5, 0.5]
    assert report.perplexities[0] == pytest.approx(2.0)
    assert report.unigram_bits_per_s == pytest.approx(2.0 * (1 + entropy_bits(codes[1])))
    assert report.deduplicated_bits_per_s is None


def test_one_codebook_without_its_repeats_costs_units_and_run_lengths() -> None:
    report = describe([np.array([[5, 5, 5, 7, 7, 7, 2]])], (8,), seconds=1.0)
    assert report.deduplicated_bits_per_s == pytest.approx(3 * (3 + entropy_bits(np.array([3, 3, 1]))))


def test_no_frames_at_all_and_codes_outside_their_codebook() -> None:
    empty = describe([np.zeros((2, 0), dtype=int)], (4, 4), seconds=1.0)
    assert (empty.frames, empty.coded_bits_per_s, empty.mean_runs) == (0, 0.0, [0.0, 0.0])
    with pytest.raises(ValueError, match="codebook 1 holds 4"):
        describe([np.array([[0], [4]])], (4, 4), seconds=1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(symbols, min_size=1, max_size=4))
def test_a_learning_coder_never_beats_the_clips_own_order_1_frequencies(clips: list[np.ndarray]) -> None:
    """Its code length is that of a mixture learnt on the way, so hindsight is always better."""
    pairs: dict[int, list[int]] = {}
    for clip in clips:
        for before, after in itertools.pairwise([-1, *clip.tolist()]):
            pairs.setdefault(before, []).append(after)
    hindsight = sum(len(after) * entropy_bits(np.array(after)) for after in pairs.values())
    assert adaptive_bits(clips, 8) >= hindsight - 1e-6
