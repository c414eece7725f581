"""The text LM's judgement by hand, and repetition as published."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import UserError
from training.perplexity import TextLm, auto_bleu


def test_nll_is_the_models_own_loss(trunk: Path) -> None:
    lm = TextLm(trunk)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(trunk), AutoTokenizer.from_pretrained(trunk)
    ids = tokenizer("Printing, in the only sense", return_tensors="pt").input_ids
    total, n = lm.nll(" Printing, in the only sense ")
    assert n == ids.shape[1] - 1
    assert total / n == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-5)

    before = tokenizer("Printing, in", return_tensors="pt").input_ids.shape[1]
    labels = ids.clone()
    labels[:, :before] = -100
    total, n = lm.nll("the only sense", "Printing, in")
    assert n == ids.shape[1] - before
    with torch.no_grad():
        assert total / n == pytest.approx(float(model(ids, labels=labels).loss), rel=1e-5)
    assert lm.nll("") == lm.nll("  ", "Printing") == (0.0, 0)


def test_no_lm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no causal LM here"):
        TextLm(tmp_path)


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [
        ("", 2, 0.0),
        ("one", 2, 0.0),
        ("the cat sat on the mat", 2, 0.0),
        ("the cat and the cat", 2, 0.5),  # the cat, cat and, and the, the cat
        ("no no no no", 2, 1.0),
        ("a b a b", 1, 1.0),
        ("Don't go. Don't go.", 2, 4 / 5),  # Don't go, go ., . Don't, Don't go, go .
    ],
)
def test_auto_bleu(text: str, n: int, share: float) -> None:
    assert auto_bleu(text, n) == share


@given(st.text(max_size=80))
def test_auto_bleu_is_a_share(text: str) -> None:
    assert 0 <= auto_bleu(text) <= 1
