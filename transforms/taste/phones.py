"""How the compact speech decoder reads words: their phones, as the aligner's lexicon has them, and what stands between words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transforms.align.g2p import Lexicon
from transforms.align.head import PHONES
from transforms.align.words import tokens_of

STOPS = tuple(",;:.?!")
SPACE = " "
"""Stands before the first word, and after each that ends with no stop."""
UNREAD = "-"
"""Stands for a word that nothing can say."""
SYMBOLS = (UNREAD, *PHONES, *STOPS, SPACE)
_IDS = {symbol: index for index, symbol in enumerate(SYMBOLS)}
BOUNDARIES = np.array([_IDS[symbol] for symbol in (*STOPS, SPACE)])
"""Ids of what stands between words, and lasts as long as the pause there: often not at all."""


class Read(NamedTuple):
    """ids: int64 `[P]`, indices of SYMBOLS: a boundary, then each word's phones and the boundary after it.
    word_ids: int64 `[P]`, the word of each: from 0 on, never falling, without a gap. What is before the first is its own."""

    ids: np.ndarray
    word_ids: np.ndarray


class PhoneReader:
    """Words of one language as phones; each is looked up once."""

    def __init__(self, language: str) -> None:
        """language: ISO 639-1."""
        self._language = language
        self._lexicon = Lexicon()

    def __call__(self, words: Sequence[str]) -> Read:
        """Each word's phones by its usual pronunciation, then the stop that it ends with, or SPACE."""
        tokens, owners = tokens_of(words, self._language)
        said: list[list[str]] = [[] for _ in words]
        for variants, owner in zip(self._lexicon.look_up(tokens, self._language), owners, strict=True):
            said[owner] += variants[0] if variants else ()
        for word, phones in zip(words, said, strict=True):
            closed = word.rstrip("\"'”’)]")
            phones[:] = [p for p in phones if p in _IDS] or [UNREAD]
            phones.append(closed[-1] if closed and closed[-1] in STOPS else SPACE)
        if said:
            said[0].insert(0, SPACE)
        ids = [_IDS[phone] for phones in said for phone in phones]
        word_ids = np.repeat(np.arange(len(said)), [len(phones) for phones in said])
        return Read(np.array(ids, dtype=np.int64), word_ids.astype(np.int64))
