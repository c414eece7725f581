"""Attention of packed rows: what keeps their documents apart; and on a CPU one document after the other, without a mask.

With a mask over all pairs the work grows with the square of a row's length; so it grows with the squares of its documents'.
`HybridLM` hands the documents to the trunk in the place of a mask, and transformers hands them on to what is registered here.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from training.packing import may_attend

DOCUMENTS = "antiphon_documents"
"""The name that transformers knows it by."""


PRODUCTS_UP_TO = 768
"""Positions of a document up to which, in bfloat16 on a CPU, two products of matrices and a softmax between them are faster than
torch's fused kernel, forward and back together: 2 to 4 times up to 512 positions, not at 1,024 (docs/benchmarks.md).
"""


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
    """Attention within each document, causal if the module is: query `[B, H, S, d]`, key, value `[B, G, S, d]` -> `[B, S, H, d]`.

    `attention_mask`: the documents, int `[B, 1, 1, S]`.
    """
    causal = getattr(module, "is_causal", True)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kind, autocast = query.device.type, torch.is_autocast_enabled(query.device.type)
    states = [x.to(torch.get_autocast_dtype(kind)) if autocast else x for x in (query, key, value)]
    rows = []
    with torch.autocast(kind, enabled=False):
        for of_row, *row in zip(lengths(attention_mask[:, 0, 0]), *states, strict=True):
            parts = zip(*(x.split(of_row, dim=1) for x in row), strict=True)
            found = [_document(part, causal, dropout, scale) for part in parts]
            rows.append(found[0] if len(found) == 1 else torch.cat(found, dim=1))
    return torch.stack(rows).transpose(1, 2).contiguous(), None


def _document(states: tuple[Tensor, ...], causal: bool, dropout: float, scale: float) -> Tensor:
    """Attention within one document: query `[H, n, d]`, key, value `[G, n, d]` -> `[H, n, d]`."""
    query, key, value = states
    heads, n, dim = query.shape
    groups = len(key)
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or n > PRODUCTS_UP_TO:
        return F.scaled_dot_product_attention(
            query[None],
            key[None],
            value[None],
            is_causal=causal,
            dropout_p=dropout,
            scale=scale,
            enable_gqa=heads != groups,
        )[0]
    # The heads that share a key one under another.
    query = query.reshape(groups, -1, dim)
    hidden = query.new_zeros(n, n)
    if causal:
        hidden.fill_(float("-inf")).triu_(1)
    scores = torch.baddbmm(hidden.repeat(heads // groups, 1), query, key.transpose(1, 2), alpha=scale)
    shares = F.dropout(scores.softmax(-1), dropout) if dropout else scores.softmax(-1)
    return torch.bmm(shares, value).view(heads, n, dim)


AttentionInterface.register(DOCUMENTS, by_document)


def implementation(setting: str, device: torch.device, compiled: bool) -> str | None:
    """What transformers is to be told for `train.attention`; None where it stays with the mask.

    The compiler takes masks only: how many documents there are differs from row to row.
    """
    if setting == "auto":
        setting = "flex" if device.type == "cuda" else "mask" if compiled else "documents"
    return {"flex": "flex_attention", "documents": DOCUMENTS}.get(setting)


def mask(documents: np.ndarray, implementation: str, device: torch.device, causal: bool = True) -> Any:
    """What keeps the documents `[B, S]` apart in a trunk's attention: additive `[B, 1, S, S]`, a BlockMask for flex, or the
    documents themselves, `[B, 1, 1, S]`, for `by_document`, which asks the trunk's layers whether it is causal.
    """
    if implementation == "flex_attention":
        return block_mask(torch.from_numpy(documents).to(device), causal)
    if implementation == DOCUMENTS:
        return torch.from_numpy(documents).to(device)[:, None, None]
    seen = torch.from_numpy(may_attend(documents, causal)).to(device)
    # An additive mask is what every attention implementation takes.
    return torch.zeros(seen.shape, device=device).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]


def block_mask(documents: Tensor, causal: bool = True) -> Any:
    """The documents `[B, S]` of packed rows as flex attention's BlockMask."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same = documents[b, q] == documents[b, k]
        return (q >= k) & same if causal else same

    n_rows, n = documents.shape
    return create_block_mask(visible, n_rows, None, n, n, device=str(documents.device))
