"""Attention of packed rows on a CPU, one document after the other: no work on what is masked, and no mask.

With a mask over all pairs the work grows with the square of a row's length; so it grows with the squares of its documents'.
`HybridLM` hands the documents to the trunk in the place of a mask, and transformers hands them on to what is registered here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

DOCUMENTS = "antiphon_documents"
"""The name that transformers knows it by."""


def lengths(documents: Tensor) -> list[list[int]]:
    """How many positions each document of each row `[B, S]` has, in their order; padding is one more of them."""
    return [torch.unique_consecutive(row, return_counts=True)[1].tolist() for row in documents]


def by_document(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document: query `[B, H, S, d]`, key and value `[B, G, S, d]` -> `[B, S, H, d]`.

    `attention_mask`: the documents, int `[B, 1, 1, S]`.
    """
    rows = []
    for of_row, *row in zip(lengths(attention_mask[:, 0, 0]), query, key, value, strict=True):
        parts = zip(*(states.split(of_row, dim=1) for states in row), strict=True)
        found = [
            F.scaled_dot_product_attention(
                *(states[None] for states in part),
                is_causal=True,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=len(row[0]) != len(row[1]),
            )[0]
            for part in parts
        ]
        rows.append(found[0] if len(found) == 1 else torch.cat(found, dim=1))
    return torch.stack(rows).transpose(1, 2).contiguous(), None


AttentionInterface.register(DOCUMENTS, by_document)


def implementation(setting: str, device: torch.device, compiled: bool) -> str | None:
    """What transformers is to be told for `train.attention`; None where it stays with the mask.

    The compiler takes masks only: how many documents there are differs from row to row.
    """
    if setting == "auto":
        setting = "flex" if device.type == "cuda" else "mask" if compiled else "documents"
    return {"flex": "flex_attention", "documents": DOCUMENTS}.get(setting)
