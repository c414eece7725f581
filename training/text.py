"""Text ids, made at load time from a row's words with the trunk's own tokenizer, so that any text LM's tokenizer serves."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import UserError
from training.layouts.base import Vocabulary

_WORD_MARKS = ("Ġ", "▁", " ")
"""How byte-level BPE, SentencePiece and plain tokenizers write the space that begins a word."""


class Text:
    """The tokenizer of a text LM, word by word.

    Every word is encoded alone with its leading space, the first one too, in training and when sampling. So a word has the
    same ids wherever it stands, and ids can be grouped into words again.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        """`tokenizer`: a Hugging Face tokenizer. `size`: rows of the trunk's embedding, at least the tokenizer's length."""
        if len(tokenizer) > size:
            raise UserError(f"the tokenizer has {len(tokenizer)} tokens and the trunk embeds only {size}")
        self.tokenizer = tokenizer
        written = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        in_words, starts_word = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        in_words[: len(written)] = True
        added = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
        in_words[[*tokenizer.all_special_ids, *added]] = False
        starts_word[: len(written)] = [token.startswith(_WORD_MARKS) for token in written]
        starts_word &= in_words
        if not starts_word.any():
            raise UserError(f"no token of this tokenizer begins with the space before a word ({' '.join(_WORD_MARKS)})")
        self.vocabulary = Vocabulary(size, starts_word, in_words & ~starts_word)
        # SentencePiece puts a space before every text by itself, and would write a given one as a token of its own.
        begun = tokenizer.encode("a", add_special_tokens=False)
        self._space = "" if starts_word[begun[:1]].any() else " "
        self._encode_word = functools.lru_cache(maxsize=100_000)(self._encode_word_uncached)

    def _encode_word_uncached(self, word: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(self._space + word, add_special_tokens=False))

    def encode(self, words: Iterable[str]) -> list[list[int]]:
        """Ids of each word, at least one a word."""
        return [list(self._encode_word(word)) for word in words]

    def decode(self, words: Iterable[Iterable[int]]) -> list[str]:
        """The words as written, without their leading space."""
        return [str(self.tokenizer.decode(list(ids))).strip() for ids in words]


def load_text(folder: Path) -> Text:
    """The tokenizer in a folder with a Hugging Face causal LM. Raises UserError where there is none."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        size = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).vocab_size
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no causal LM with its tokenizer here: {error}") from None
    return Text(tokenizer, size)
