"""Words to text ids and back, with the two kinds of tokenizer that text LMs have."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from schemas.errors import UserError
from training.text import Text, load_text
from transforms.weights.convert.llama2c import make_tokenizer

PIECES = ["▁the", "▁th", "he", "▁t", *"▁aeht"]


def sentencepiece() -> PreTrainedTokenizerFast:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *PIECES]
    tokenizer: PreTrainedTokenizerFast = make_tokenizer(tokens, [-float(i) for i in range(len(tokens))], 64)
    return tokenizer


def test_every_word_is_encoded_with_one_space_before_it(trunk: Path) -> None:
    """SentencePiece's own tokenizer adds that space, a byte-level one does not."""
    words = ["the", "that", "Zé", "the"]
    for text in (load_text(trunk), Text(sentencepiece(), 300)):
        ids = text.encode(words)
        flat = [i for word in ids for i in word]
        assert text.decode(ids) == words
        assert text.vocabulary.split(flat) == ids
        assert text.tokenizer.decode(flat).strip() == " ".join(words)
    assert text.tokenizer.convert_ids_to_tokens(ids[0]) == ["▁the"]


def test_a_special_token_is_in_no_word(trunk: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trunk)
    tokenizer.add_special_tokens({"eos_token": "</s>", "additional_special_tokens": ["Ġ<turn>"]})
    vocabulary = Text(tokenizer, 410).vocabulary
    assert not (vocabulary.starts_word & vocabulary.continues_word).any()
    in_words = vocabulary.starts_word | vocabulary.continues_word
    # 400 tokens of the fixture, the two added ones, and rows of the trunk that the tokenizer has no token for.
    np.testing.assert_array_equal(np.flatnonzero(~in_words), range(400, 410))


def test_a_tokenizer_that_marks_no_word_is_refused() -> None:
    import tokenizers

    model = tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, "?")
    with pytest.raises(UserError, match="no token of this tokenizer begins with the space"):
        Text(PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(model)), 3)


def test_more_tokens_than_the_trunk_embeds_are_refused() -> None:
    with pytest.raises(UserError, match="has 268 tokens and the trunk embeds only 260"):
        Text(sentencepiece(), 260)
