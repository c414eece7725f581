"""Which units a word has, and which words of an utterance are speech and which text. Pure; draws depend on the id alone."""

import hashlib
import math

import numpy as np

from training.layouts.base import Example


def word_bounds(example: Example, rate_hz: float) -> np.ndarray:
    """Int64 `[W + 1]`: word w has the units `bounds[w]..bounds[w + 1]`. Every unit is in exactly one word, W >= 1.

    A unit is of the word in which its middle lies, so that no word loses a unit that is mostly its own, and none has another's
    (slamkit goes by the unit's end, and gives a unit that ends on a border to both words). Words meet in the middle of the
    silence between them, or of their overlap; what is before the first and after the last word is theirs.
    """
    inner = word_borders(example.starts_s, example.ends_s, example.run_lengths, rate_hz)
    return np.concatenate([[0], inner, [len(example.units)]]).astype(np.int64)


def word_borders(starts_s: np.ndarray, ends_s: np.ndarray, run_lengths: np.ndarray, rate_hz: float) -> np.ndarray:
    """Int64 `[W - 1]`, ascending: the first unit of each word but the first; `[0]` without words. See `word_bounds`.

    Args:
        starts_s, ends_s: of the words, `[W]` each. run_lengths: frames that each unit lasts, `[U]`. rate_hz: frames a second.
    """
    starts, ends = starts_s[1:], ends_s[:-1]
    borders = np.maximum.accumulate((starts + ends) / 2 * rate_hz) if len(starts) else np.zeros(0)
    middles = np.cumsum(run_lengths) - run_lengths / 2
    # The tolerance keeps a middle that lies on a border in the later word although float32 times are a little off.
    return np.searchsorted(middles, borders - 1e-4, side="left").astype(np.int64)


def generator(example_id: str, seed: int) -> np.random.Generator:
    """Random numbers that depend on the example's id and a seed alone, whatever the epoch, the order or the machine."""
    digest = hashlib.sha256(f"{seed}\n{example_id}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def alternating(random: np.random.Generator, n_words: int, longest: int) -> np.ndarray:
    """Bool `[W]`: text and speech in turn, spans of 1 to `longest` words, either first (Spirit-LM's random spans)."""
    speech = np.zeros(n_words, dtype=bool)
    at, spoken = 0, bool(random.integers(2))
    while at < n_words:
        length = int(random.integers(1, longest + 1))
        speech[at : at + length] = spoken
        at, spoken = at + length, not spoken
    return speech


def poisson(random: np.random.Generator, n_words: int, mean: float, share: float) -> np.ndarray:
    """Bool `[W]`: spans of Poisson length are speech, until `share` of the words are (SIMS).

    A span begins at any word that is still text, and ends at the next speech: slamkit draws again where spans overlap, and may
    draw for ever. A span of no words is one word.
    """
    speech = np.zeros(n_words, dtype=bool)
    wanted = math.ceil(share * n_words)
    while speech.sum() < wanted:
        start = int(random.choice(np.flatnonzero(~speech)))
        later = np.flatnonzero(speech[start:])
        room = int(later[0]) if len(later) else n_words - start
        speech[start : start + min(room, max(1, int(random.poisson(mean))))] = True
    return speech
