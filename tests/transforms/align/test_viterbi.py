"""The trellis against brute force, against the plain recursion and against ctc-forced-aligner's C++ core."""

import itertools
import pickle
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


@given(st.lists(st.integers(1, 2), min_size=1, max_size=3), st.data())
@settings(max_examples=100, deadline=None)
def test_it_is_the_best_where_ways_tie_and_frames_are_short(targets: list[int], data: st.DataObject) -> None:
    """Whole numbers, so that sums are exact and ways often equal; hardly more frames than the targets need."""
    needed = len(targets) + sum(a == b for a, b in itertools.pairwise(targets))
    n_frames = needed + data.draw(st.integers(0, 2))
    worth = st.lists(st.integers(-3, 0), min_size=3, max_size=3)
    log_probs = np.array(data.draw(st.lists(worth, min_size=n_frames, max_size=n_frames)), np.float32)
    ways = [p for p in itertools.product(range(3), repeat=n_frames) if collapse(p, 0) == targets]
    found = viterbi(log_probs, targets)
    assert tuple(found.tolist()) in ways
    assert score(log_probs, found) == max(score(log_probs, np.array(way)) for way in ways)


def holds(n_frames: int, targets: list[int]) -> bool:
    """Whether the C++ core has room for what it writes.

    It keeps two bits for each state that it visits in frames 1 to T - 1, in (S + 1) (T - L) places (main.cpp of version 1.0.2,
    S = 2 L + 1). With few frames to spare it visits more states than that, and its bits land in memory that is not its own: the
    path may then be another, spell something else, or the process end. With room enough, it finds the same paths as ours
    there too: checked with a build of that file whose vectors were made larger. For one frame it reads an empty vector.
    """
    n, repeats = len(targets), sum(a == b for a, b in itertools.pairwise(targets))
    low, high, visited = 0 if n_frames > n + repeats else 1, 2, 0
    for t in range(1, n_frames):
        if n_frames - t <= n + repeats:
            low += 2 if low % 2 and low // 2 + 1 < n and targets[low // 2] != targets[low // 2 + 1] else 1
        if t <= n + repeats:
            high += 2 if high % 2 == 0 and high < 2 * n and targets[high // 2 - 1] != targets[high // 2] else 1
        visited += high - low
    return n_frames > 1 and visited <= (2 * n + 2) * (n_frames - n)


_CORE = """
    import pickle, sys
    import numpy as np
    from ctc_forced_aligner import forced_align
    with open(sys.argv[1], "rb") as file:
        cases = pickle.load(file)
    for log_probs, targets in cases:
        path, _ = forced_align(log_probs[None], np.array(targets)[None], blank=0)
        print(*np.asarray(path).reshape(-1))
"""


def core_cases(seed: int, count: int) -> list[tuple[np.ndarray, list[int]]]:
    """Every other one has as few frames as the core can hold, or little more; the rest up to 150 to spare."""
    random, made = np.random.default_rng(seed), []
    while len(made) < count:
        vocabulary = int(random.integers(3, 40))
        targets = random.integers(1, vocabulary, int(random.integers(1, 60))).tolist()
        spare = 2 + len(targets) + int(random.integers(0, 150))
        if len(made) % 2:
            spare = int(random.integers(0, len(targets) + 2)) + sum(a == b for a, b in itertools.pairwise(targets))
        n_frames = len(targets) + spare
        if holds(n_frames, targets):
            made.append((emissions(len(made), n_frames, vocabulary), targets))
    return made


def test_it_equals_the_cpp_core_on_a_thousand_cases(tmp_path) -> None:  # type: ignore[no-untyped-def]
    cases = core_cases(0, 1000)
    assert sum(len(log_probs) < 2 * len(targets) for log_probs, targets in cases) > 250
    file = tmp_path / "cases.pkl"
    file.write_bytes(pickle.dumps(cases))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_CORE), str(file)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    paths = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    for (log_probs, targets), theirs in zip(cases, paths, strict=True):
        assert viterbi(log_probs, targets).tolist() == theirs


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


@given(
    st.integers(0, 999), st.lists(st.integers(1, 5), min_size=1, max_size=40), st.integers(0, 120), st.integers(1, 50)
)
@settings(max_examples=100, deadline=None)
def test_a_band_gives_a_way_and_a_wide_one_the_best(seed: int, units: list[int], spare: int, band: int) -> None:
    log_probs, trellis = emissions(seed, 2 * len(units) + spare, 6), Trellis.ctc(units, 0)
    best, found = align(log_probs, trellis), align(log_probs, trellis, band)
    assert best is not None
    assert found is not None
    ids = [np.where(s % 2, np.array(units)[np.minimum(s // 2, len(units) - 1)], 0) for s in (best, found)]
    assert collapse(tuple(ids[1].tolist()), 0) == units
    assert score(log_probs, ids[1]) <= score(log_probs, ids[0]) + 1e-3
    if band >= len(units):
        assert found.tolist() == best.tolist()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8])
def test_a_band_widens_until_it_holds_what_was_said(share: float) -> None:
    """200 units, and silence before the last `share` of the frames or after the first."""
    targets = np.random.default_rng(0).integers(1, 8, 200)
    n_frames = 3000
    spoken = n_frames - round(share * n_frames)
    said = np.zeros(n_frames, np.int64)
    said[np.linspace(1, spoken - 2, 200).astype(int)] = targets
    log_probs = np.log(np.eye(8)[said] * 0.9 + 0.0125).astype(np.float32)
    for sound in (log_probs, log_probs[::-1]):
        order = targets if sound is log_probs else targets[::-1]
        trellis = Trellis.ctc(order.tolist(), 0)
        assert align(sound, trellis, 4).tolist() == align(sound, trellis).tolist()  # type: ignore[union-attr]


def test_memory_stays_small_over_a_long_recording() -> None:
    import tracemalloc

    log_probs, targets = emissions(0, 20_000, 8), np.random.default_rng(1).integers(1, 8, 4000).tolist()
    tracemalloc.start()
    path = viterbi(log_probs, targets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert collapse(tuple(path.tolist()), 0) == targets
    assert peak < 40e6  # the steps of all frames would be 160 MB
