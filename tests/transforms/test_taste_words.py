"""Words and their subwords: one way in, and codes that go from one vocabulary to another and back without a change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.taste.words import (
    EMPTY,
    asr_to_llm,
    at_every_subword,
    at_first_subword,
    llm_to_asr,
    of_each_word,
    tokenize_words,
)

TEXT = "I unbelievably like cats"
A, B, C, D = ([i, i + 1, i + 2, i + 3] for i in (10, 20, 30, 40))
NONE = [EMPTY] * 4


def pieces(table: dict[str, list[str]]):
    """A tokenizer that cuts each word (with its leading space) as the table says; the id of a piece is its place in it."""
    vocabulary = [piece for cut in table.values() for piece in cut]
    return lambda word: [vocabulary.index(piece) for piece in table[word]]


ASR = pieces({" I": ["I"], " unbelievably": ["un", "bel", "iev", "ably"], " like": ["like"], " cats": ["cats"]})
LLM = pieces({" I": ["I"], " unbelievably": ["unbel", "iev", "ably"], " like": ["like"], " cats": ["c", "ats"]})


def test_the_worked_example() -> None:
    asr, llm = tokenize_words(TEXT, ASR), tokenize_words(TEXT, LLM)
    assert asr.words == llm.words == ("I", "unbelievably", "like", "cats")
    assert asr.word_ids.tolist() == [0, 1, 1, 1, 1, 2, 3]
    assert llm.word_ids.tolist() == [0, 1, 1, 1, 2, 3, 3]
    codes = np.array([A, B, C, D])
    heard = at_every_subword(codes, asr.word_ids)
    assert heard.tolist() == [A, B, B, B, B, C, D]
    placed = asr_to_llm(heard, asr.word_ids, llm.word_ids)
    assert placed.tolist() == [A, B, NONE, NONE, C, D, NONE]
    assert llm_to_asr(placed, llm.word_ids, asr.word_ids).tolist() == heard.tolist()


cuts = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=30)


@given(cuts, st.integers(1, 6), st.randoms(use_true_random=False))
def test_asr_to_llm_and_back_is_exact(cut, levels, random) -> None:
    asr_ids = np.repeat(np.arange(len(cut)), [a for a, _ in cut]).astype(np.int64)
    llm_ids = np.repeat(np.arange(len(cut)), [b for _, b in cut]).astype(np.int64)
    codes = np.array([[random.randrange(512) for _ in range(levels)] for _ in cut], dtype=np.int16).reshape(-1, levels)
    heard = at_every_subword(codes, asr_ids)
    placed = asr_to_llm(heard, asr_ids, llm_ids)
    assert np.array_equal(llm_to_asr(placed, llm_ids, asr_ids), heard)
    assert np.array_equal(asr_to_llm(llm_to_asr(placed, llm_ids, asr_ids), asr_ids, llm_ids), placed)
    assert np.array_equal(of_each_word(placed, llm_ids), codes)
    assert int((placed != EMPTY).all(axis=1).sum()) == len(cut)


@given(st.text(max_size=60))
def test_words_are_what_white_space_parts_and_every_word_has_its_subwords(text) -> None:
    tokens = tokenize_words(text, lambda word: list(word.encode()))
    assert list(tokens.words) == text.split()
    for index, word in enumerate(tokens.words):
        assert bytes(tokens.ids[tokens.word_ids == index].tolist()).decode() == " " + word


def test_a_word_has_the_same_subwords_in_any_place() -> None:
    encode = lambda word: list(word.encode())  # noqa: E731
    first, last = tokenize_words("cats like", encode), tokenize_words("like cats", encode)
    assert first.ids[first.word_ids == 0].tolist() == last.ids[last.word_ids == 1].tolist()
    assert tokenize_words("  cats \n like ", encode).ids.tolist() == first.ids.tolist()


def test_mistakes_name_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"word 1 \('b'\)"):
        tokenize_words("a b", lambda word: [] if "b" in word else [1])
    with pytest.raises(ValueError, match="codes for 3 words, but the subwords are those of 2 words"):
        at_first_subword(np.zeros((3, 4), dtype=int), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="3 codes for 2 subwords"):
        of_each_word(np.zeros((3, 4), dtype=int), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"subword 1 has codes \[2\], its word \[1\]"):
        of_each_word(np.array([[1], [2]]), np.array([0, 0]))
