"""Attention one document after the other: what the mask gives, forward and back, and what chooses between the two."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.training.test_heads import one
from tests.training.test_heads import settings as small
from tests.training.test_train import options, steps_of
from training.attention import DOCUMENTS, block_mask, by_document, implementation, lengths
from training.packing import may_attend
from training.train import train

Write = Callable[..., Path]


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=5), min_size=1, max_size=3),
    groups=st.sampled_from([1, 2]),
)
def test_each_document_sees_what_the_mask_lets_it_see(rows: list[list[int]], groups: int) -> None:
    n = max(map(sum, rows))
    documents = np.full((len(rows), n), -1)
    for b, row in enumerate(rows):
        documents[b, : sum(row)] = np.repeat(np.arange(len(row)), row)
    random = torch.Generator().manual_seed(n)
    states = [
        torch.randn(len(rows), heads, n, 8, generator=random, requires_grad=True) for heads in (2, groups, groups)
    ]
    there = torch.from_numpy(documents >= 0)

    given_ = torch.from_numpy(documents)[:, None, None]
    found, _ = by_document(nn.Identity(), *states, given_, scaling=0.3)
    seen = torch.from_numpy(may_attend(documents))[:, None]
    full = F.scaled_dot_product_attention(*states, attn_mask=seen, scale=0.3, enable_gqa=groups == 1).transpose(1, 2)
    torch.testing.assert_close(found[there], full[there], rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(y[there].square().sum(), states) for y in (found, full)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    row=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    heads=st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    causal=st.booleans(),
)
def test_bfloat16_is_as_near_to_float32_as_torchs_kernel(row: list[int], heads: tuple[int, int], causal: bool) -> None:
    """Forward and back, under autocast too, from states of float32."""
    n, random = sum(row), torch.Generator().manual_seed(sum(row))
    full = [torch.randn(1, h, n, 16, generator=random, requires_grad=True) for h in (heads[0], heads[1], heads[1])]
    half = [x.detach().bfloat16().requires_grad_() for x in full]
    module = nn.Identity()
    module.is_causal = causal
    documents = torch.from_numpy(np.repeat(np.arange(len(row)), row))[None, None, None]
    exact, _ = by_document(module, *full, documents)
    exact_gradients = torch.autograd.grad(exact.square().sum(), full)
    found, _ = by_document(module, *half, documents)
    assert found.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        again, _ = by_document(module, *full, documents)
    torch.testing.assert_close(again, found, rtol=0, atol=0)
    torch.testing.assert_close(found.float(), exact, rtol=0.03, atol=0.03)
    for ours, theirs in zip(torch.autograd.grad(found.float().square().sum(), half), exact_gradients, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=0.1, atol=0.15)


def test_long_documents_go_through_torchs_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [torch.randn(1, 2, 30, 8, dtype=torch.bfloat16) for _ in range(3)]
    documents = torch.tensor([[[[0] * 10 + [1] * 20]]])
    short, _ = by_document(nn.Identity(), *states, documents)
    monkeypatch.setattr("training.attention.PRODUCTS_UP_TO", 15)
    long, _ = by_document(nn.Identity(), *states, documents)
    torch.testing.assert_close(short[:, :10], long[:, :10], rtol=0, atol=0)
    torch.testing.assert_close(short, long, rtol=0.03, atol=0.03)
    assert not torch.equal(short[:, 10:], long[:, 10:])


def test_lengths_count_padding_as_one_more() -> None:
    assert lengths(torch.tensor([[0, 0, 1, -1], [0, 0, 0, 0]])) == [[2, 1, 1], [4]]


@torch.no_grad()
def test_the_trunk_takes_documents_in_the_place_of_a_mask(write_corpus: Write, trunk: Path) -> None:
    model, batch = one(write_corpus(), trunk, small())
    assert batch.documents.max() > 0
    there = torch.from_numpy(batch.documents >= 0)
    masked = model.batch_hidden(batch)[there]
    model.trunk.set_attn_implementation(DOCUMENTS)
    torch.testing.assert_close(model.batch_hidden(batch)[there], masked, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_flex_attention_sees_what_the_mask_lets_it_see(causal: bool) -> None:
    documents = np.array([[0, 0, 1, 1, 1, -1], [0, 0, 0, 0, 1, 1]])
    seen = block_mask(torch.from_numpy(documents), causal).mask_mod
    at = torch.meshgrid(torch.arange(2), torch.arange(6), torch.arange(6), indexing="ij")
    np.testing.assert_array_equal(seen(at[0], torch.tensor(0), at[1], at[2]), may_attend(documents, causal))


def test_which_way_is_taken() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert implementation("auto", cpu, False) == implementation("documents", cuda, True) == DOCUMENTS
    assert implementation("auto", cuda, False) == implementation("flex", cpu, False) == "flex_attention"
    assert implementation("auto", cpu, True) is implementation("mask", cuda, False) is None


def test_training_is_the_same_either_way_also_with_text_kl(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    corpus, losses = write_corpus(), {}
    for kind in ("mask", "documents"):
        wanted = options(steps=3, attention=kind, layout={"name": "codec"}, loss={"text_kl": 0.5})
        train(wanted, [corpus], trunk, tmp_path / kind, lambda line: None)
        losses[kind] = [entry["loss"] for entry in steps_of(tmp_path / kind) if "loss" in entry]
    assert losses["mask"] == pytest.approx(losses["documents"], rel=1e-4)
