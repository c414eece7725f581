"""Pre-norm transformer layers (arXiv 1706.03762; norms first as in arXiv 2002.04745)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """mask: bool, True where a query may look."""
        both = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = both.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.dropout(self.mixed(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(F.gelu(self.widen(self.hidden_norm(x)))))


class Layers(nn.Module):
    """Several of them, and a norm at the end."""

    def __init__(self, dim: int, count: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, hidden, dropout) for _ in range(count))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, S, D]` -> the same. mask: bool, `[B, 1, S, S]` or what broadcasts to it."""
        for layer in self.layers:
            x = layer(x, mask)
        normed: Tensor = self.norm(x)
        return normed


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Sines and cosines of positions `[n]` -> `[n, dim]`, wavelengths from 2π to 20000π (arXiv 1706.03762, section 3.5)."""
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-torch.log(torch.tensor(10000.0)) / dim))
    angles = positions[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
