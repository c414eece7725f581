"""Forced alignment: the likeliest way through the frames that spells the targets, exact, in memory that grows as sqrt(T)."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

_NEVER = -np.inf


def fits(n_frames: int, targets: Sequence[int], vocabulary: int, blank: int) -> bool:
    """Whether CTC targets can be aligned at all: each needs a frame, and each adjacent repetition a blank between.

    ctc-forced-aligner's C++ core ends the process where this is False; `viterbi` raises ValueError.
    """
    repeats = sum(a == b for a, b in itertools.pairwise(targets))
    known = all(0 <= t < vocabulary and t != blank for t in targets)
    return len(targets) > 0 and n_frames > 0 and known and n_frames >= len(targets) + repeats


@dataclass(frozen=True)
class Trellis:
    """L units to be passed in order, and a filler (blank, silence) that may stand before each of them and at the end.

    Attributes:
        units: int `[L]`, the emission column of each unit. filler: the column of the filler.
        before: float32 `[L + 1]`, log-weight of entering the filler before unit j, or after the last; -inf forbids it.
        straight: float32 `[L]`, log-weight of going from unit j - 1 to unit j without the filler; -inf forbids it.
    """

    units: np.ndarray
    filler: int
    before: np.ndarray
    straight: np.ndarray

    @classmethod
    def ctc(cls, targets: Sequence[int], blank: int) -> "Trellis":
        """Graves et al. 2006 (Connectionist Temporal Classification, 4.1): a blank may stand anywhere, and must between equals."""
        units = np.asarray(targets, np.int64)
        straight = np.zeros(len(units), np.float32)
        straight[1:][units[1:] == units[:-1]] = _NEVER
        return cls(units, blank, np.zeros(len(units) + 1, np.float32), straight)


def align(log_probs: np.ndarray, trellis: Trellis, band: int = 0) -> np.ndarray | None:
    """The best state of each frame, int64 `[T]`: 2 j for the filler before unit j, 2 j + 1 for unit j. None: there is no way.

    O(T L) time. The forward pass keeps the scores of every sqrt(T)-th frame; the way back computes the steps between two of them
    again, and only for the states that can still matter, so memory is O(sqrt(T) L) and the result is exact. Scores are float64:
    with float32 the sums of an hour's frames would no longer tell neighbouring ways apart.

    Args:
        log_probs: float `[T, V]`, any frame rate.
        band: at first only ways within so many units of an even pace are tried, which takes O(T band); again with a band twice as
            wide where the best of them leaves the band's inner three quarters, or there is none. 0: all ways.
    """
    n_frames, n_units = len(log_probs), len(trellis.units)
    if n_frames == 0 or n_units == 0:
        return None
    log_probs = np.ascontiguousarray(log_probs, np.float32)
    block = max(1, math.isqrt(n_frames))
    kept = np.empty((-(-n_frames // block), 2, n_units + 1))
    given = (log_probs, trellis.units, trellis.filler, trellis.before, trellis.straight)
    band = min(band, n_units) or n_units
    while True:
        kept[:] = _NEVER
        state = _forward(*given, band, block, kept)
        if state >= 0:
            path = np.empty(n_frames, np.int64)
            _backward(*given, block, kept, state, path)
            if band >= n_units or 4 * _farthest(path, n_units) <= 3 * band:
                return path
        elif band >= n_units:
            return None
        band = min(2 * band, n_units)


def _farthest(path: np.ndarray, n_units: int) -> float:
    """Units by which the way is ahead of an even pace, or behind it, at most."""
    even = np.arange(len(path)) * (n_units / len(path))
    return float(np.abs(path // 2 - even).max())


def viterbi(log_probs: np.ndarray, targets: Sequence[int], blank: int = 0) -> np.ndarray:
    """The best CTC path, int64 `[T]` of vocabulary ids, blanks included. `[T, V]` log-probabilities, targets `[L]` without `blank`.

    Raises ValueError, with the numbers, where `fits` does not hold.
    """
    if not fits(len(log_probs), targets, log_probs.shape[1], blank):
        raise ValueError(f"{len(targets)} targets do not fit {len(log_probs)} frames of {log_probs.shape[1]} symbols")
    states = align(log_probs, Trellis.ctc(targets, blank))
    if states is None:
        raise ValueError(f"no way through {len(log_probs)} frames has a probability above 0")
    return np.where(states % 2, np.asarray(targets, np.int64)[np.minimum(states // 2, len(targets) - 1)], blank)


def viterbi_batch(
    log_probs: Sequence[np.ndarray], targets: Sequence[Sequence[int]], blank: int = 0
) -> list[np.ndarray | None]:
    """`viterbi` for each of B pairs, each of its own length; None for those that do not fit, which harm no other."""
    return [
        viterbi(one, wanted, blank) if fits(len(one), wanted, one.shape[1], blank) else None
        for one, wanted in zip(log_probs, targets, strict=True)
    ]


def runs(states: np.ndarray, n_units: int) -> list[tuple[int, int]]:
    """Frames `start` to `end` (exclusive) of each of the L units along the states that `align` found."""
    starts = np.searchsorted(states, 2 * np.arange(n_units) + 1, side="left")
    ends = np.searchsorted(states, 2 * np.arange(n_units) + 1, side="right")
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _compiled(function: Callable[..., Any]) -> Any:
    """Compiled, and kept on disk where there is somewhere to write."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True)(function)


@_compiled
def _step(row, units, filler, before, straight, old_f, old_u, new_f, new_u, low, high):  # type: ignore[no-untyped-def]
    """Scores of fillers and units low..high - 1 after one more frame, from those before it. old_u[j + 1] is unit j."""
    blank = row[filler]
    for j in range(low, high):
        f, u, last = old_f[j], old_u[j + 1], old_u[j]
        come = last + before[j]
        new_f[j] = (f if f > come else come) + blank
        best = last + straight[j]
        best = f if f > best else best
        best = u if u > best else best
        new_u[j + 1] = best + row[units[j]]


@_compiled
def _last(row, filler, before, old_f, old_u, new_f, n):  # type: ignore[no-untyped-def]
    """The score of the filler after the last unit."""
    come = old_u[n] + before[n]
    new_f[n] = (old_f[n] if old_f[n] > come else come) + row[filler]


@_compiled
def _begin(log_probs, units, filler, before, fillers, scores):  # type: ignore[no-untyped-def]
    """The first frame: the filler before the first unit, or that unit."""
    fillers[:] = -np.inf
    scores[:] = -np.inf
    fillers[0] = before[0] + log_probs[0, filler]
    scores[1] = log_probs[0, units[0]]


@_compiled
def _forward(log_probs, units, filler, before, straight, band, block, kept):  # type: ignore[no-untyped-def]
    """Fills `kept` [K, 2, L + 1] (fillers; then units at j + 1) at frames 0, block, 2 block ...; returns the last state, or -1.

    Only units within `band` of an even pace are reached; those out of reach stay at -inf in `kept`, which comes full of it.
    """
    n_frames, n = len(log_probs), len(units)
    old_f, old_u = np.empty(n + 1), np.empty(n + 1)
    new_f, new_u = np.full(n + 1, -np.inf), np.full(n + 1, -np.inf)
    _begin(log_probs, units, filler, before, old_f, old_u)
    kept[0, 0], kept[0, 1] = old_f, old_u
    before_low = 0
    for t in range(1, n_frames):
        even = t * n // n_frames
        # Units beyond t cannot be reached yet; those before n - (frames left) - 1 can no longer reach the end.
        low, high = max(0, n - (n_frames - t) - 1, even - band), min(n, t + 1, even + band + 1)
        if low and low == before_low:
            old_u[low] = -np.inf  # unit low - 1, which was left behind a frame earlier
        before_low = low
        _step(log_probs[t], units, filler, before, straight, old_f, old_u, new_f, new_u, low, high)
        _last(log_probs[t], filler, before, old_f, old_u, new_f, n)
        old_f, new_f = new_f, old_f
        old_u, new_u = new_u, old_u
        if t % block == 0:
            kept[t // block, 0, low:], kept[t // block, 1, low + 1 :] = old_f[low:], old_u[low + 1 :]
    if old_f[n] == -np.inf and old_u[n] == -np.inf:
        return -1
    return 2 * n if old_f[n] >= old_u[n] else 2 * n - 1


@_compiled
def _backward(log_probs, units, filler, before, straight, block, kept, state, path):  # type: ignore[no-untyped-def]
    """Writes the states from the last frame to the first, from one kept frame back to the one before it."""
    n_frames, n = len(log_probs), len(units)
    steps = np.empty((block, 2 * block + 5), np.int8)
    old_f, old_u = np.empty(n + 1), np.empty(n + 1)
    new_f, new_u = np.full(n + 1, -np.inf), np.full(n + 1, -np.inf)
    for k in range(len(kept) - 1, -1, -1):
        first, last = k * block, min(n_frames - 1, (k + 1) * block)
        # The way goes back by at most one unit a frame.
        low, high = max(0, state // 2 - (last - first)), min(n, state // 2 + 1)
        old_f[:] = kept[k, 0]
        old_u[:] = kept[k, 1]
        for t in range(first + 1, last + 1):
            row = steps[t - first - 1]
            for j in range(low, high):
                row[2 * (j - low)] = 0 if old_f[j] >= old_u[j] + before[j] else 1
                step, best = 2, old_u[j] + straight[j]
                if old_f[j] >= best:
                    step, best = 1, old_f[j]
                row[2 * (j - low) + 1] = 0 if old_u[j + 1] >= best else step
            _step(log_probs[t], units, filler, before, straight, old_f, old_u, new_f, new_u, low, high)
            if high == n:
                row[2 * (n - low)] = 0 if old_f[n] >= old_u[n] + before[n] else 1
                _last(log_probs[t], filler, before, old_f, old_u, new_f, n)
            old_f, new_f = new_f, old_f
            old_u, new_u = new_u, old_u
        for t in range(last, first, -1):
            path[t] = state
            state -= steps[t - first - 1, state - 2 * low]
        path[first] = state
