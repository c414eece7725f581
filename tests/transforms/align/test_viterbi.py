"""The CTC trellis against brute force and against ctc-forced-aligner's C++ core."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.align.viterbi import fits, runs, viterbi


def emissions(seed: int, n_frames: int, vocabulary: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (n_frames, vocabulary)).astype(np.float32)
    found: np.ndarray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return found


def score(log_probs: np.ndarray, path: np.ndarray) -> float:
    return float(log_probs[np.arange(len(path)), path].sum())


def collapse(path: tuple[int, ...], blank: int) -> list[int]:
    return [k for k, _ in itertools.groupby(path) if k != blank]


@given(st.integers(0, 999), st.integers(2, 6), st.lists(st.integers(1, 2), min_size=1, max_size=3))
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
    assert score(log_probs, found) == pytest.approx(score(log_probs, np.array(best)), abs=1e-4)
    assert len(runs(found, targets)) == len(targets)


@given(st.integers(0, 10**6), st.integers(2, 120), st.integers(3, 40), st.data())
@settings(max_examples=150, deadline=None)
def test_it_equals_the_cpp_core(seed: int, n_frames: int, vocabulary: int, data: st.DataObject) -> None:
    from transforms.align.ctc import best_path

    blank = data.draw(st.integers(0, vocabulary - 1))
    letters = st.integers(0, vocabulary - 1).filter(lambda i: i != blank)
    targets = data.draw(st.lists(letters, min_size=1, max_size=60))
    if not fits(n_frames, targets, vocabulary, blank):
        return
    log_probs = emissions(seed, n_frames, vocabulary)
    ours, theirs = viterbi(log_probs, targets, blank), best_path(log_probs, targets, blank)
    assert score(log_probs, theirs) == pytest.approx(score(log_probs, ours), rel=1e-5)
    assert runs(theirs, targets, blank) == runs(ours, targets, blank)


@pytest.mark.parametrize(
    ("n_frames", "targets"), [(1, [1]), (3, []), (2, [1, 1]), (3, [1, 2, 3, 4]), (5, [0]), (5, [99]), (5, [-1])]
)
def test_what_would_end_the_process_does_not_fit(n_frames: int, targets: list[int]) -> None:
    assert not fits(n_frames, targets, 10, 0)


def test_the_guard_is_needed_the_core_does_end_the_process() -> None:
    code = (
        "import numpy as np; from ctc_forced_aligner import forced_align\n"
        "forced_align(np.zeros((1, 3, 5), np.float32), np.ones((1, 40), np.int64), blank=0); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "alive" not in done.stdout
