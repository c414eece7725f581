"""CTC forced alignment: the likeliest way through the frames that spells the targets."""

import itertools
from collections.abc import Sequence

import numpy as np


def fits(n_frames: int, targets: Sequence[int], vocabulary: int, blank: int) -> bool:
    """Whether the targets can be aligned at all: each needs a frame, and each adjacent repetition a blank between.

    ctc-forced-aligner's C++ core ends the process where this is False, so it is asked first.
    """
    repeats = sum(a == b for a, b in itertools.pairwise(targets))
    known = all(0 <= t < vocabulary and t != blank for t in targets)
    return len(targets) > 0 and n_frames > 1 and known and n_frames >= len(targets) + repeats


def viterbi(log_probs: np.ndarray, targets: Sequence[int], blank: int = 0) -> np.ndarray:
    """The best path, `[T]` of vocabulary ids, blanks included.

    The trellis of Graves et al. 2006 (Connectionist Temporal Classification, section 4.1): states are the targets with blanks
    around them; a step stays, goes on by one, or skips a blank between two different targets. O(T L) time and memory.

    Args:
        log_probs: float `[T, V]`.
        targets: `[L]` ids, none of them `blank`. `fits` must hold.
    """
    states = np.full(2 * len(targets) + 1, blank)
    states[1::2] = targets
    n_frames, n_states = len(log_probs), len(states)
    may_skip = np.zeros(n_states, bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(n_states, -np.inf)
    scores[:2] = log_probs[0, states[:2]]
    steps = np.zeros((n_frames, n_states), np.int8)
    for t in range(1, n_frames):
        stay = scores
        go = np.concatenate([[-np.inf], scores[:-1]])
        skip = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], scores[:-2]]), -np.inf)
        choices = np.stack([stay, go, skip])
        steps[t] = choices.argmax(axis=0)
        scores = choices.max(axis=0) + log_probs[t, states]
    state = n_states - 1 if scores[-1] >= scores[-2] else n_states - 2
    path = np.zeros(n_frames, np.int64)
    for t in range(n_frames - 1, -1, -1):
        path[t] = states[state]
        state -= steps[t, state]
    return path


def runs(path: np.ndarray, targets: Sequence[int], blank: int = 0) -> list[tuple[int, int]]:
    """Frames `start` to `end` (exclusive) of each target along a path."""
    edges = np.flatnonzero(np.diff(path)) + 1
    bounds = [0, *edges.tolist(), len(path)]
    found = [(a, b) for a, b in itertools.pairwise(bounds) if path[a] != blank]
    assert [int(path[a]) for a, _ in found] == list(targets), "the path does not spell the targets"
    return found
