"""k-means over frames, and units without repetition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from transforms.units import kmeans
from transforms.units.reservoir import Reservoir


@given(arrays(np.int64, st.integers(0, 200), elements=st.integers(0, 3)))
def test_undup_takes_dedup_back(frames: np.ndarray) -> None:
    units, run_lengths = kmeans.dedup(frames)
    np.testing.assert_array_equal(kmeans.undup(units, run_lengths), frames)
    assert (np.diff(units) != 0).all()
    assert (run_lengths > 0).all()


def test_dedup_of_a_known_sequence() -> None:
    units, run_lengths = kmeans.dedup(np.array([7, 7, 0, 0, 0, 7]))
    assert units.tolist() == [7, 0, 7]
    assert run_lengths.tolist() == [2, 3, 1]


@given(
    arrays(np.float32, (50, 3), elements=st.floats(-8, 8, width=16)),
    arrays(np.float32, (9, 3), elements=st.floats(-8, 8, width=16)),
)
def test_assigned_centroids_are_the_nearest(features: np.ndarray, centroids: np.ndarray) -> None:
    squared = np.square(features[:, None].astype(np.float64) - centroids).sum(axis=2)
    chosen = squared[np.arange(50), kmeans.assign(features, centroids)]
    # Squares of up to 192 are taken apart and summed in float32, so that near ties fall either way.
    np.testing.assert_allclose(chosen, squared.min(axis=1), atol=2e-4)


def test_assignment_does_not_depend_on_the_chunks() -> None:
    random = np.random.default_rng(0)
    features, centroids = (
        random.normal(size=(5000, 16)).astype(np.float32),
        random.normal(size=(40, 16)).astype(np.float32),
    )
    parts = [kmeans.assign(features[i : i + 617], centroids) for i in range(0, 5000, 617)]
    np.testing.assert_array_equal(kmeans.assign(features, centroids), np.concatenate(parts))


def test_no_frames_are_no_units() -> None:
    frames = kmeans.assign(np.zeros((0, 4), np.float32), np.zeros((3, 4), np.float32))
    assert [len(part) for part in kmeans.dedup(frames)] == [0, 0]


def test_fit_finds_well_apart_clusters_and_repeats_itself() -> None:
    random = np.random.default_rng(1)
    centres = random.uniform(-100, 100, (8, 5)).astype(np.float32)
    features = (centres[random.integers(0, 8, 2000)] + random.normal(0, 0.1, (2000, 5))).astype(np.float32)
    found = kmeans.fit(features, 8, seed=3)
    assert np.linalg.norm(found[:, None] - centres, axis=2).min(axis=0).max() < 0.1
    np.testing.assert_array_equal(found, kmeans.fit(features, 8, seed=3))


def test_fewer_frames_than_centroids_are_refused() -> None:
    with pytest.raises(ValueError, match="5 frames are too few for 8 centroids"):
        kmeans.fit(np.zeros((5, 2), np.float32), 8, seed=0)


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.booleans())
def test_the_sample_of_frames_does_not_depend_on_order_or_shards(shuffle, n_shards: int, expecting: bool) -> None:
    random = np.random.default_rng(2)
    spoken = {f"{i:016x}": random.normal(size=(int(random.integers(0, 90)), 3)).astype(np.float32) for i in range(30)}
    n_frames = sum(map(len, spoken.values()))
    whole = Reservoir(100, 5)
    for name, frames in spoken.items():
        whole.add(name, frames)
    shards = [Reservoir.expecting(100, 5, n_frames) if expecting else Reservoir(100, 5) for _ in range(n_shards)]
    names = list(spoken)
    shuffle.shuffle(names)
    for name in names:
        shuffle.choice(shards).add(name, spoken[name])
    union = Reservoir(100, 5)
    for shard in shards:
        union.merge(shard)
    assert whole.sample().shape == (100, 3)
    np.testing.assert_array_equal(whole.sample(), union.sample())
    assert (union.n_utterances, union.n_frames) == (30, n_frames)
    assert union.heard.keys() == whole.heard.keys()


def test_the_sample_is_uniform_over_frames() -> None:
    """One utterance of 1,000 frames and 100 of 10: half of the sample from each side, within four standard deviations."""
    drawn = Reservoir(400, 1)
    drawn.add("f" * 16, np.zeros((1000, 1), np.float32))
    for i in range(100):
        drawn.add(f"{i:016x}", np.ones((10, 1), np.float32))
    assert 160 < drawn.sample().sum() < 240


def test_a_bound_for_many_frames_passes_little_on() -> None:
    shard = Reservoir.expecting(100, 0, 1_000_000)
    shard.add("a" * 16, np.zeros((20_000, 1), np.float32))
    assert 5 < sum(map(len, shard.keys)) < 60
