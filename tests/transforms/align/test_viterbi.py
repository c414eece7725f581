"""The trellis against brute force, against the plain recursion and against ctc-forced-aligner's C++ core."""

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.align.viterbi import Trellis, align, fits, runs, viterbi, viterbi_batch


def emissions(seed: int, n_frames: int, vocabulary: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (n_frames, vocabulary)).astype(np.float32)
    found: np.ndarray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return found


def score(log_probs: np.ndarray, path: np.ndarray) -> float:
    return float(log_probs[np.arange(len(path)), path].astype(np.float64).sum())


def collapse(path: tuple[int, ...], blank: int) -> list[int]:
    return [k for k, _ in itertools.groupby(path) if k != blank]


def plain(log_probs: np.ndarray, targets: list[int], blank: int) -> np.ndarray:
    """The recursion as Graves et al. 2006 write it, with every step kept."""
    states = np.full(2 * len(targets) + 1, blank)
    states[1::2] = targets
    may_skip = np.zeros(len(states), bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(len(states), -np.inf)
    scores[:2] = log_probs[0, states[:2]]
    steps = np.zeros((len(log_probs), len(states)), np.int8)
    for t in range(1, len(log_probs)):
        go = np.concatenate([[-np.inf], scores[:-1]])
        skip = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], scores[:-2]]), -np.inf)
        choices = np.stack([scores, go, skip])
        steps[t] = choices.argmax(axis=0)
        scores = choices.max(axis=0) + log_probs[t, states]
    state = len(states) - (1 if scores[-1] >= scores[-2] else 2)
    path = np.zeros(len(log_probs), np.int64)
    for t in range(len(log_probs) - 1, -1, -1):
        path[t] = states[state]
        state -= steps[t, state]
    return path


@given(st.integers(0, 999), st.integers(1, 6), st.lists(st.integers(1, 2), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_it_is_the_best_of_all_paths(seed: int, n_frames: int, targets: list[int]) -> None:
    if not fits(n_frames, targets, 3, 0):
        return
    log_probs = emissions(seed, n_frames, 3)
    best = max(
        (p for p in itertools.product(range(3), repeat=n_frames) if collapse(p, 0) == targets),
        key=lambda p: score(log_probs, np.array(p)),
    )
    found = viterbi(log_probs, targets)
    assert collapse(tuple(found.tolist()), 0) == targets
    assert score(log_probs, found) == pytest.approx(score(log_probs, np.array(best)), abs=1e-4)


@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(3, 40), st.data())
@settings(max_examples=200, deadline=None)
def test_it_equals_the_plain_recursion_to_the_frame(
    seed: int, n_frames: int, vocabulary: int, data: st.DataObject
) -> None:
    blank = data.draw(st.integers(0, vocabulary - 1))
    letters = st.integers(0, vocabulary - 1).filter(lambda i: i != blank)
    targets = data.draw(st.lists(letters, min_size=1, max_size=n_frames))
    if not fits(n_frames, targets, vocabulary, blank):
        return
    log_probs = emissions(seed, n_frames, vocabulary)
    found = viterbi(log_probs, targets, blank)
    assert score(log_probs, found) == pytest.approx(score(log_probs, plain(log_probs, targets, blank)), abs=1e-3)
    assert found.tolist() == plain(log_probs, targets, blank).tolist()


_CORE = """
    import itertools, json, sys
    import numpy as np
    from ctc_forced_aligner import forced_align
    seed, cases, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    random, kept = np.random.default_rng(seed), []
    while len(kept) < cases:
        vocabulary = int(random.integers(3, 40))
        targets = random.integers(1, vocabulary, int(random.integers(1, 60)))
        # With few frames to spare the core writes past its memory.
        n_frames = 2 * len(targets) + 2 + int(random.integers(0, 150))
        logits = random.normal(0, 2, (n_frames, vocabulary)).astype(np.float32)
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        path = np.asarray(forced_align(log_probs[None], targets[None], blank=0)[0]).reshape(-1)
        kept.append({"log_probs": log_probs, "targets": targets, "path": path})
    np.save(file, np.array(kept, dtype=object), allow_pickle=True)
"""


def test_it_equals_the_cpp_core_on_a_thousand_cases(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "core.npy"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_CORE), "0", "1000", str(file)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    if done.returncode < 0:
        pytest.skip(f"the C++ core ended its process with signal {-done.returncode}")
    assert done.returncode == 0, done.stderr
    for case in np.load(file, allow_pickle=True):
        ours = viterbi(case["log_probs"], case["targets"].tolist())
        theirs = case["path"]
        assert score(case["log_probs"], ours) == pytest.approx(score(case["log_probs"], theirs), abs=1e-3)
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("n_frames", "targets"), [(0, [1]), (3, []), (2, [1, 1]), (3, [1, 2, 3, 4]), (5, [0]), (5, [99]), (5, [-1])]
)
def test_what_does_not_fit_is_said_and_harms_nothing(n_frames: int, targets: list[int]) -> None:
    log_probs = emissions(0, n_frames, 10)
    assert not fits(n_frames, targets, 10, 0)
    with pytest.raises(ValueError, match=f"{len(targets)} targets do not fit {n_frames} frames"):
        viterbi(log_probs, targets)
    good = emissions(1, 9, 10)
    assert viterbi_batch([log_probs, good], [targets, [1, 2]])[0] is None
    assert viterbi_batch([log_probs, good], [targets, [1, 2]])[1].tolist() == viterbi(good, [1, 2]).tolist()  # type: ignore[union-attr]


def test_an_impossible_emission_is_no_way_through() -> None:
    log_probs = np.full((4, 3), -np.inf, np.float32)
    assert align(log_probs, Trellis.ctc([1, 2], 0)) is None
    with pytest.raises(ValueError, match="no way"):
        viterbi(log_probs, [1, 2])


@given(st.integers(0, 999), st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 40), st.data())
@settings(max_examples=100, deadline=None)
def test_a_filler_stands_only_where_it_may(seed: int, units: list[int], spare: int, data: st.DataObject) -> None:
    allowed = data.draw(st.lists(st.booleans(), min_size=len(units) + 1, max_size=len(units) + 1))
    before = np.where(allowed, 0.0, -np.inf).astype(np.float32)
    trellis = Trellis(np.array(units), 0, before, np.zeros(len(units), np.float32))
    states = align(emissions(seed, len(units) + spare, 6), trellis)
    assert states is not None
    assert set(states[states % 2 == 0] // 2) <= set(np.flatnonzero(allowed))
    spans = runs(states, len(units))
    assert all(a < b for a, b in spans)
    assert all(b <= c for (_, b), (c, _) in itertools.pairwise(spans))


def test_memory_stays_small_over_a_long_recording() -> None:
    import tracemalloc

    log_probs, targets = emissions(0, 20_000, 8), np.random.default_rng(1).integers(1, 8, 4000).tolist()
    tracemalloc.start()
    path = viterbi(log_probs, targets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert collapse(tuple(path.tolist()), 0) == targets
    assert peak < 40e6  # the steps of all frames would be 160 MB
