"""Tokens laid on the phone classifier's frames: their best pronunciations, and where each begins and ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transforms.align.g2p import Phones
from transforms.align.head import N_CLASSES, PHONES, STATES
from transforms.align.viterbi import Trellis, align

STAR = N_CLASSES
"""The column of the wildcard."""
_PRIOR_WEIGHT = 0.7
"""Posteriors are divided by this power of the classes' frequency, so that silence, a third of all frames, does not spread."""
_ENTER_SILENCE = -2.0
"""Log-weight of a pause between two words."""
_STAR_WEIGHT = -3.0
"""A wildcard's frame is worth this less (natural logarithm) than the best phone's, so that it leaves words what is theirs."""
_INDEX = {phone: i for i, phone in enumerate(PHONES)}


@dataclass(frozen=True)
class Units:
    """What a row of tokens is to the trellis: L classes in order.

    Attributes:
        columns: int `[L]`, the classes. owners: int `[L]`, each one's token. first: bool `[L]`, whether it begins its token.
    """

    columns: np.ndarray
    owners: np.ndarray
    first: np.ndarray

    @classmethod
    def spell(cls, said: Sequence[Phones]) -> "Units":
        """Three classes for each phone; a token without phones is a wildcard."""
        rows = [_columns(phones) for phones in said]
        lengths = [len(row) for row in rows]
        columns = np.array([c for row in rows for c in row], np.int64)
        first = np.zeros(len(columns), bool)
        if rows:
            first[np.cumsum([0, *lengths[:-1]])] = True
        return cls(columns, np.repeat(np.arange(len(rows)), lengths), first)

    def trellis(self) -> Trellis:
        before = np.append(np.where(self.first, _ENTER_SILENCE, -np.inf), _ENTER_SILENCE).astype(np.float32)
        before[0] = 0.0
        return Trellis(self.columns, 0, before, np.zeros(len(self.columns), np.float32))


@dataclass(frozen=True)
class Placed:
    """Where a token lies: frames, `start` and `end` as fractions, and its score."""

    start: float
    end: float
    score: float


def _columns(phones: Phones) -> list[int]:
    if not phones:
        return [STAR]
    return [1 + STATES * _INDEX[phone] + i for phone in phones for i in range(STATES)]


def emissions(log_posteriors: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Log-posteriors `[T, N_CLASSES]`, the classes' frequency `[N_CLASSES]` -> float32 scores `[T, N_CLASSES + 1]`.

    Scaled likelihoods, and last the wildcard's.
    """
    scores = log_posteriors - _PRIOR_WEIGHT * np.log(prior + 1e-5)
    star = scores[:, 1:].max(axis=1, initial=-np.inf, keepdims=True) + _STAR_WEIGHT
    return np.concatenate([scores, star], axis=1).astype(np.float32)


def place(scores: np.ndarray, log_posteriors: np.ndarray, said: Sequence[Phones]) -> list[Placed] | None:
    """Tokens' frames, or None where there are more classes than frames."""
    units = Units.spell(said)
    states = align(scores, units.trellis())
    if states is None:
        return None
    starts, ends = token_frames(states, units, len(said))
    edges = _between(scores, states, units)
    worth = _worth(log_posteriors, states, units)
    return [
        Placed(float(edges[a]), float(edges[b]), float(worth[a:b].mean()))
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def token_frames(states: np.ndarray, units: Units, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """First frame and the one after the last, `[n_tokens]` each, along the states that `align` found."""
    places = np.arange(n_tokens)
    low = 2 * np.searchsorted(units.owners, places, side="left") + 1
    high = 2 * np.searchsorted(units.owners, places, side="right") - 1
    return np.searchsorted(states, low, side="left"), np.searchsorted(states, high, side="right")


def _column_of(states: np.ndarray, units: Units) -> np.ndarray:
    return np.where(states % 2, units.columns[np.minimum(states // 2, len(units.columns) - 1)], 0)


def _between(scores: np.ndarray, states: np.ndarray, units: Units) -> np.ndarray:
    """Where each frame begins, in frames, `[T + 1]`: where the state changes, the point at which the scores of both cross."""
    n_frames = len(scores)
    edges = np.arange(n_frames + 1, dtype=np.float64)
    columns = _column_of(states, units)
    at = np.flatnonzero(np.diff(states)) + 1
    ahead = scores[at - 1, columns[at - 1]] - scores[at - 1, columns[at]]
    behind = scores[at, columns[at]] - scores[at, columns[at - 1]]
    total = ahead + behind
    crossing = np.where(total > 0, ahead / np.where(total > 0, total, 1.0), 0.5)
    edges[at] += np.clip(crossing, 0.0, 1.0) - 0.5
    return edges


def _worth(log_posteriors: np.ndarray, states: np.ndarray, units: Units) -> np.ndarray:
    """The probability of each frame's phone, whichever of its states, `[T]`; of any phone at all for a wildcard."""
    columns = _column_of(states, units)
    frames = np.arange(len(columns))
    posteriors = np.exp(log_posteriors)
    phones = np.concatenate([posteriors[:, :1], posteriors[:, 1:].reshape(len(frames), -1, STATES).sum(axis=2)], axis=1)
    index = np.where(columns == 0, 0, 1 + (columns - 1) // STATES)
    star = columns == STAR
    found: np.ndarray = np.where(star, 1 - posteriors[:, 0], phones[frames, np.where(star, 0, index)])
    return np.clip(found, 0.0, 1.0)


def choose(scores: np.ndarray, variants: Sequence[Sequence[Phones]]) -> list[Phones]:
    """One pronunciation for each token: all are placed in their first, then each is asked which fits its frames best."""
    said = [options[0] if options else () for options in variants]
    if all(len(options) < 2 for options in variants):
        return said
    units = Units.spell(said)
    states = align(scores, units.trellis())
    if states is None:
        return said
    starts, ends = token_frames(states, units, len(said))
    for i, options in enumerate(variants):
        if len(options) > 1:
            own = scores[max(0, int(starts[i]) - 2) : int(ends[i]) + 2]
            said[i] = max(options, key=lambda phones: _fit(own, phones))
    return said


def _fit(scores: np.ndarray, phones: Phones) -> float:
    """Log-score of the best way through all frames that says these phones, -inf where there is none. Ties go to the first."""
    units = Units.spell([phones])
    never = np.full(len(units.columns) + 1, -np.inf, np.float32)
    states = align(scores, Trellis(units.columns, 0, never, np.zeros(len(units.columns), np.float32)))
    if states is None:
        return -np.inf
    return float(scores[np.arange(len(scores)), units.columns[states // 2]].sum())
