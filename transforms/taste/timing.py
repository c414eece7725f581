"""How many frames each phone lasts: between the aligner's word times, from what units each phone usually sounds as.

The phones of a word share its frames out among themselves by a hidden Markov model with one state a phone, left to right, whose
emissions are the units (Viterbi training: Juang and Rabiner, IEEE Trans. ASSP 38(9), 1990). Words are cut evenly; then in turn it
is counted which units each phone has, and each word is cut anew where that is likeliest. It only serves to fit the decoder, which
learns to tell these lengths and is not given the model.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from transforms.taste.aggregator import FRAME_HZ
from transforms.taste.phones import BOUNDARIES, Read

_ROUNDS = 8
_PRIOR = 10.0
"""Frames of the units' overall distribution that every phone's counts begin with."""


def word_spans(starts_s: Sequence[float], ends_s: Sequence[float], n_frames: int) -> np.ndarray:
    """First frame and the one after the last of each word, int64 `[W, 2]`: rising, in the utterance, one frame a word at least.

    Args:
        starts_s, ends_s: W times from the beginning of the utterance. n_frames: of 20 ms, in the utterance.

    Raises:
        ValueError: fewer frames than words.
    """
    n_words = len(starts_s)
    if n_frames < n_words:
        raise ValueError(f"{n_frames} frames of units for {n_words} words")
    edges = np.rint(np.stack([starts_s, ends_s], axis=1).reshape(-1) * FRAME_HZ).astype(np.int64)
    # With the frame that each word must have taken away, edges only have to rise.
    must = (np.arange(2 * n_words) + 1) // 2
    edges = np.maximum.accumulate(np.clip(edges - must, 0, n_frames - n_words)) + must
    return edges.reshape(-1, 2)


def phone_frames(
    units: Sequence[np.ndarray], reads: Sequence[Read], spans: Sequence[np.ndarray], n_units: int
) -> list[np.ndarray]:
    """Frames of each phone and boundary, int64 `[P]` for each utterance, which add up to its frames.

    A boundary lasts from the end of its word to the beginning of the next; the first one, before any word, from the beginning
    of the utterance. A word of fewer frames than phones has no model: it is cut evenly, and some of its phones get no frame.

    Args:
        units: int64 `[T]` each, the unit of every frame. spans: int64 `[W, 2]` each, as `word_spans` gives them.
    """
    frames = [_boundaries(read, span, len(u)) for u, read, span in zip(units, reads, spans, strict=True)]
    words = _words(units, reads, spans)
    ids = max((int(phones.max()) for phones, _, _ in words), default=0) + 1
    overall = np.bincount(np.concatenate(units), minlength=n_units) / sum(map(len, units))
    groups = _by_shape(words)
    stacked = {key: _stacked(words, group) for key, group in groups.items()}
    cuts = {key: np.repeat(_even(*key)[None], len(group), axis=0) for key, group in groups.items()}
    for _ in range(_ROUNDS):
        counts = np.tile(_PRIOR * overall, (ids, 1))
        for key, (phones, heard) in stacked.items():
            owner = np.stack([np.repeat(p, c) for p, c in zip(phones, cuts[key], strict=True)])
            np.add.at(counts, (owner, heard), 1)
        likely = np.log((counts + 1e-9) / (counts + 1e-9).sum(1, keepdims=True))
        for key, (phones, heard) in stacked.items():
            if key[0] <= key[1]:
                cuts[key] = _viterbi(likely[phones[:, :, None], heard[:, None, :]])
    for key, group in groups.items():
        for row, index in enumerate(group):
            utterance, places = words[index][2]
            frames[utterance][places] = cuts[key][row]
    return frames


_Word = tuple[np.ndarray, np.ndarray, tuple[int, np.ndarray]]
"""A word's phones `[P]`, its units `[T]`, and where they stand: the utterance, and the phones' places in it."""


def _boundaries(read: Read, spans: np.ndarray, n_frames: int) -> np.ndarray:
    frames = np.zeros(len(read.ids), dtype=np.int64)
    edges = np.append(np.insert(spans[:, 1], 0, 0), n_frames)
    frames[np.isin(read.ids, BOUNDARIES)] = np.append(spans[:, 0], n_frames) - edges[:-1]
    return frames


def _words(units: Sequence[np.ndarray], reads: Sequence[Read], spans: Sequence[np.ndarray]) -> list[_Word]:
    words = []
    for index, (heard, read, span) in enumerate(zip(units, reads, spans, strict=True)):
        said = ~np.isin(read.ids, BOUNDARIES)
        for word, (first, end) in enumerate(span):
            places = np.flatnonzero(said & (read.word_ids == word))
            words.append((read.ids[places], heard[first:end], (index, places)))
    return words


def _by_shape(words: list[_Word]) -> dict[tuple[int, int], list[int]]:
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (phones, heard, _) in enumerate(words):
        groups[len(phones), len(heard)].append(index)
    return groups


def _stacked(words: list[_Word], group: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([words[i][0] for i in group]), np.stack([words[i][1] for i in group])


def _even(n_phones: int, n_frames: int) -> np.ndarray:
    return np.diff(np.arange(n_phones + 1) * n_frames // n_phones)


def _viterbi(scores: np.ndarray) -> np.ndarray:
    """`[n, P, T]` log-likelihoods, P <= T -> frames of each phone on the best path, int64 `[n, P]`, each one at least."""
    n, n_phones, n_frames = scores.shape
    best = np.full((n, n_phones), -np.inf)
    best[:, 0] = scores[:, 0, 0]
    moved = np.zeros((n_frames, n, n_phones), dtype=bool)
    for t in range(1, n_frames):
        before = np.concatenate([np.full((n, 1), -np.inf), best[:, :-1]], axis=1)
        moved[t] = before > best
        best = np.maximum(best, before) + scores[:, :, t]
    frames, at, rows = np.zeros((n, n_phones), dtype=np.int64), np.full(n, n_phones - 1), np.arange(n)
    for t in range(n_frames - 1, -1, -1):
        frames[rows, at] += 1
        at = at - moved[t, rows, at]
    return frames
