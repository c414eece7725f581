"""Recordings of any length: all words placed roughly over the whole, then exactly between pauses."""

from collections.abc import Sequence

import numpy as np

from transforms.align.g2p import Phones
from transforms.align.head import PHONES, STATES
from transforms.align.placing import Placed, Units, choose, emissions, place, token_frames
from transforms.align.viterbi import align

_WHOLE = 6000
"""Frames (60 s) up to which there is nothing to cut."""
_SHORTEST, _LONGEST = 2000, 4000
"""A piece is cut at the longest pause between 20 and 40 s after the last cut."""
_COARSE = 2
"""Frames that the rough pass takes as one."""
_BAND = 1500
"""Phones off an even pace, at least, that the rough pass allows at first."""


def align_pieces(
    log_posteriors: np.ndarray, prior: np.ndarray, variants: Sequence[Sequence[Phones]]
) -> list[Placed] | None:
    """Every token's place, or None where the audio is too short for them.

    The rough pass takes one class a phone and 20 ms a frame, near an even pace first (`viterbi.align`): for an hour of speech it
    keeps 250 MB.

    Args:
        log_posteriors: float32 `[T, N_CLASSES]`. prior: float32 `[N_CLASSES]`.
        variants: each token's pronunciations; a token without any is a wildcard.
    """
    if len(log_posteriors) <= _WHOLE:
        found = _exactly(log_posteriors, prior, variants)
        if found is not None:
            return found
    rough = _roughly(log_posteriors, prior, variants)
    if rough is None or len(log_posteriors) <= _WHOLE:
        return rough
    placed: list[Placed] = []
    for first, last, start, end in cuts(rough, len(log_posteriors)):
        piece = _exactly(log_posteriors[start:end], prior, variants[first:last])
        if piece is None:
            placed += rough[first:last]
        else:
            placed += [Placed(p.start + start, p.end + start, p.score) for p in piece]
    return placed


def cuts(rough: Sequence[Placed], n_frames: int) -> list[tuple[int, int, int, int]]:
    """(first token, token after the last, first frame, frame after the last) of pieces that tile tokens and frames."""
    found = []
    first, start = 0, 0
    while first < len(rough):
        best, widest = len(rough), -1.0
        for i in range(first + 1, len(rough)):
            if rough[i].start - start > _LONGEST and best < len(rough):
                break
            pause = rough[i].start - rough[i - 1].end
            if rough[i - 1].end - start >= _SHORTEST and pause > widest:
                best, widest = i, pause
        end = n_frames if best == len(rough) else int(rough[best - 1].end + rough[best].start) // 2
        found.append((first, best, start, end))
        first, start = best, end
    return found


def _exactly(
    log_posteriors: np.ndarray, prior: np.ndarray, variants: Sequence[Sequence[Phones]]
) -> list[Placed] | None:
    scores = emissions(log_posteriors, prior)
    return place(scores, log_posteriors, choose(scores, variants))


def _roughly(
    log_posteriors: np.ndarray, prior: np.ndarray, variants: Sequence[Sequence[Phones]]
) -> list[Placed] | None:
    """One class a phone, its best state; two frames at once."""
    n = len(log_posteriors) // _COARSE
    scores = np.empty((n, len(PHONES) + 2), np.float32)
    for begin in range(0, n, _WHOLE):
        end = min(n, begin + _WHOLE)
        fine = emissions(log_posteriors[_COARSE * begin : _COARSE * end], prior)
        phones = fine[:, 1:-1].reshape(len(fine), -1, STATES).max(axis=2)
        one = np.concatenate([fine[:, :1], phones, fine[:, -1:]], axis=1)
        scores[begin:end] = one.reshape(end - begin, _COARSE, -1).mean(axis=1)
    fine_units = Units.spell([options[0] if options else () for options in variants])
    kept = (fine_units.columns - 1) % STATES == 0
    units = Units((fine_units.columns[kept] - 1) // STATES + 1, fine_units.owners[kept], fine_units.first[kept])
    states = align(scores, units.trellis(), max(_BAND, len(units.columns) // 16))
    if states is None:
        return None
    starts, ends = token_frames(states, units, len(variants))
    columns = np.where(states % 2, units.columns[np.minimum(states // 2, len(units.columns) - 1)], 0)
    worth = np.exp(np.minimum(scores[np.arange(n), columns], 0.0))
    return [
        Placed(float(a * _COARSE), float(b * _COARSE), float(worth[a:b].mean()))
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
