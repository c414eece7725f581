"""One way from a text to its words and their subwords, in fitting and in use; and one code tuple for each word in any vocabulary.

TASTE (arXiv 2504.07053) gives every word one tuple of codes. The recogniser's vocabulary and the language model's cut the
same word into different subwords, so both are tied to it through `word_ids`, the index of each subword's word:

    text          I unbelievably like cats
    asr subwords  I | un bel iev ably | like | cats      word_ids 0 1 1 1 1 2 3    codes A B B B B C D
    llm subwords  I | unbel iev ably  | like | c  ats    word_ids 0 1 1 1 2 3 3    codes A B - - C D -

`-` is `EMPTY`, -1 in every level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

EMPTY = -1
"""The code at the subwords of a word after its first one, in the language model's layout."""

Encode = Callable[[str], Sequence[int]]
"""A tokenizer's text -> subword ids, without special tokens."""


@dataclass(frozen=True, slots=True)
class WordTokens:
    """A text's W words and N subwords.

    Attributes:
        words: the W words. ids: int64 `[N]` subword ids. word_ids: int64 `[N]`, the word of each subword: 0, ..., W - 1,
            never falling and without a gap.
    """

    words: tuple[str, ...]
    ids: np.ndarray
    word_ids: np.ndarray


def tokenize_words(text: str, encode: Encode) -> WordTokens:
    """Split a text at white space and encode each word alone, with one space before it.

    The first word gets its space too: so a word's subwords never depend on its place, and that is also how Whisper writes a
    first word. Punctuation stays with the word it touches.

    Raises:
        ValueError: the tokenizer gives no subword for a word.
    """
    words = tuple(text.split())
    ids: list[int] = []
    word_ids: list[int] = []
    for index, word in enumerate(words):
        subwords = list(encode(" " + word))
        if not subwords:
            raise ValueError(f"word {index} ({word!r}): the tokenizer gives it no subword")
        ids += subwords
        word_ids += [index] * len(subwords)
    return WordTokens(words, np.array(ids, dtype=np.int64), np.array(word_ids, dtype=np.int64))


def at_every_subword(codes: np.ndarray, word_ids: np.ndarray) -> np.ndarray:
    """`[W, R]` word codes -> `[N, R]`, repeated on every subword of their word: the recogniser's layout."""
    _check_count(codes, word_ids)
    return codes[word_ids]


def at_first_subword(codes: np.ndarray, word_ids: np.ndarray) -> np.ndarray:
    """`[W, R]` word codes -> `[N, R]`, on the first subword of their word and EMPTY on the others: the language model's layout."""
    _check_count(codes, word_ids)
    placed = np.full((len(word_ids), codes.shape[1]), EMPTY, dtype=codes.dtype)
    first = _is_first(word_ids)
    placed[first] = codes[word_ids[first]]
    return placed


def of_each_word(codes: np.ndarray, word_ids: np.ndarray) -> np.ndarray:
    """`[N, R]` subword codes in either layout -> `[W, R]`, one tuple for each word: that of its first subword.

    Raises:
        ValueError: a later subword of a word has a code of its own, so no tuple is the word's.
    """
    if len(codes) != len(word_ids):
        raise ValueError(f"{len(codes)} codes for {len(word_ids)} subwords")
    words = codes[_is_first(word_ids)]
    stray = (codes != words[word_ids]).any(axis=1) & (codes != EMPTY).any(axis=1)
    if stray.any():
        at = int(np.argmax(stray))
        raise ValueError(f"subword {at} has codes {codes[at].tolist()}, its word {words[word_ids[at]].tolist()}")
    return words


def asr_to_llm(codes: np.ndarray, asr_word_ids: np.ndarray, llm_word_ids: np.ndarray) -> np.ndarray:
    """`[N_asr, R]` -> `[N_llm, R]`. Its inverse is `llm_to_asr`, exactly. Raises ValueError where the words are not as many."""
    return at_first_subword(of_each_word(codes, asr_word_ids), llm_word_ids)


def llm_to_asr(codes: np.ndarray, llm_word_ids: np.ndarray, asr_word_ids: np.ndarray) -> np.ndarray:
    """`[N_llm, R]` -> `[N_asr, R]`. Its inverse is `asr_to_llm`, exactly. Raises ValueError where the words are not as many."""
    return at_every_subword(of_each_word(codes, llm_word_ids), asr_word_ids)


def _is_first(word_ids: np.ndarray) -> np.ndarray:
    """bool `[N]`: True at the first subword of each word."""
    return np.diff(word_ids, prepend=-1) > 0


def _check_count(codes: np.ndarray, word_ids: np.ndarray) -> None:
    n_words = int(word_ids[-1]) + 1 if len(word_ids) else 0
    if len(codes) != n_words:
        raise ValueError(f"codes for {len(codes)} words, but the subwords are those of {n_words} words")
