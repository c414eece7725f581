"""Pre-norm transformer layers (arXiv 1706.03762; norms first as in arXiv 2002.04745) that can also go on one position at a time."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values `[B, heads, S, d]` of what each layer has read so far; empty at the start."""


class Layer(nn.Module):
    """Self-attention and a feed-forward network: `[B, S, D]` -> the same."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.hidden_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.mixed = nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output, and the keys and values that it has now read. mask: bool, True where a query may look."""
        both = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = both.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.dropout(self.mixed(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(F.gelu(self.widen(self.hidden_norm(x))))), key, value


class Layers(nn.Module):
    """Several of them, and a norm at the end."""

    def __init__(self, dim: int, count: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, hidden, dropout) for _ in range(count))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """`[B, S, D]` -> the same.

        Args:
            mask: bool, `[B, 1, S, S]` or what broadcasts to it. Not needed where one position goes on from a cache.
            cache: what was read before; extended in place.
        """
        for index, layer in enumerate(self.layers):
            past = cache[index] if cache is not None and index < len(cache) else None
            x, key, value = layer(x, mask, past)
            if cache is not None:
                cache[index : index + 1] = [(key, value)]
        return self.norm(x)


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Sines and cosines of positions `[n]` -> `[n, dim]`, wavelengths from 2π to 20000π (arXiv 1706.03762, section 3.5)."""
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-torch.log(torch.tensor(10000.0)) / dim))
    angles = positions[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
