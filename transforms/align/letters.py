"""Spelling tokens in the letters of a CTC vocabulary, and placing them on its emissions."""

from collections.abc import Mapping, Sequence

import numpy as np
from unidecode import unidecode

from transforms.align.viterbi import Trellis, align, runs
from transforms.align.words import Time

_STAR_WEIGHT = -3.0
"""A wildcard's frame is worth this less (natural logarithm) than the best letter's, so that it leaves words what is theirs."""


def spell(token: str, ids: Mapping[str, int]) -> list[int]:
    """The token's letters as numbers. One that is not in `ids` is romanised (Unidecode), and left out where that does not help."""
    found: list[int] = []
    for letter in token:
        if letter in ids:
            found.append(ids[letter])
        else:
            romanised = unidecode(letter)
            romanised = romanised.upper() if token.isupper() else romanised.lower()
            found += [ids[c] for c in romanised if c in ids]
    return found


def place(
    scores: np.ndarray,
    log_probs: np.ndarray,
    spelled: Sequence[Sequence[int]],
    blank: int,
    frame_s: float,
    shift_s: float = 0.0,
) -> list[Time | None]:
    """One time for each token by the best CTC way; None for all where they do not fit.

    A token without letters is a `wildcard`, placed on the speech that its neighbours leave. A score is the mean probability of
    a token's letters in their frames.

    Args:
        scores: `[T, V]`, what the way is chosen by. log_probs: `[T, V]`, what words are scored by.
        frame_s, shift_s: frame t begins at `t * frame_s + shift_s`.
    """
    star = scores.shape[1]
    others = np.delete(np.arange(star), blank)
    scores = np.concatenate([scores, scores[:, others].max(axis=1, keepdims=True) + _STAR_WEIGHT], axis=1)
    units = [list(ids) or [star] for ids in spelled]
    targets = [i for ids in units for i in ids]
    states = align(scores, Trellis.ctc(targets, blank))
    if states is None:
        return [None] * len(spelled)
    probabilities = np.exp(np.concatenate([log_probs, log_probs[:, others].max(axis=1, keepdims=True)], axis=1))
    letters = iter(zip(runs(states, len(targets)), targets, strict=True))
    times: list[Time | None] = []
    for ids, kept in zip(spelled, units, strict=True):
        own = [next(letters) for _ in kept]
        worth = np.concatenate([probabilities[a:b, i] for (a, b), i in own])
        start_s, end_s = own[0][0][0] * frame_s + shift_s, own[-1][0][1] * frame_s + shift_s
        times.append(Time(start_s, end_s, min(1.0, float(worth.mean())), "ctc" if ids else "wildcard"))
    return times
