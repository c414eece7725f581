"""The compact speech decoder: text tokens and TASTE codes -> speech units. Its loss is what the tokenizer learns from.

It follows TASTE's decoder (arXiv 2504.07053, section 2.2) at a smaller size, with two differences. Units are de-duplicated and
each comes with its run length, which halves the sequence and makes every prediction a change of sound. And no speaker
embedding is put in, since the pipeline has none here: what the codes carry includes the voice.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_RUN = 16
"""Longest run length that is told apart, in frames of 20 ms; longer ones count as this."""

IGNORE = -100
"""Target of a padded position."""


class Prediction(NamedTuple):
    """Logits. units: `[B, M + 1, n_units + 1]`, the last class the end. runs: `[B, M + 1, MAX_RUN]`, for lengths 1, 2, ..."""

    units: Tensor
    runs: Tensor


class SpeechDecoder(nn.Module):
    """Fused text and codes as a prefix, then the units, in one causal transformer.

    in:  [start] [fused_1 .. fused_N] [task] [u_1, r_1] .. [u_M, r_M]
    out:                               u_1     u_2      ..    end       and the run length of each, given the unit itself
    """

    def __init__(
        self,
        dim_in: int,
        n_units: int,
        *,
        dim: int = 256,
        layers: int = 4,
        text_layers: int = 1,
        units_per_token: float = 8.0,
        dropout: float = 0.1,
    ) -> None:
        """
        Args:
            dim_in: width of the text embeddings and of the decoded codes.
            n_units: number of speech units; id `n_units` is the end.
            text_layers: layers of the text encoder, and of the code encoder.
            units_per_token: units that one text token lasts on average. The positions of the prefix advance by as much, so
                that a unit starts out near the token that it belongs to, as in Deep Voice 3 (arXiv 1710.07654, section 3.5).
        """
        super().__init__()
        self.n_units, self.units_per_token = n_units, units_per_token
        self.text_in, self.code_in = nn.Linear(dim_in, dim), nn.Linear(dim_in, dim)
        self.text_encoder = _transformer(dim, text_layers, dropout)
        self.code_encoder = _transformer(dim, text_layers, dropout)
        self.fusion = nn.Parameter(torch.zeros(2))
        self.marks = nn.Embedding(2, dim)
        self.unit_in = nn.Embedding(n_units + 1, dim)
        self.run_in = nn.Embedding(MAX_RUN + 1, dim)
        self.blocks = _transformer(dim, layers, dropout)
        self.unit_out = nn.Linear(dim, n_units + 1)
        self.run_unit = nn.Embedding(n_units + 1, dim)
        self.run_out = nn.Linear(dim, MAX_RUN)
        for table in (self.marks, self.unit_in, self.run_in, self.run_unit):
            nn.init.normal_(table.weight, std=0.02 * dim**0.5)

    def fuse(self, text: Tensor, codes: Tensor | None, valid: Tensor) -> Tensor:
        """`[B, N, dim_in]` text embeddings and decoded codes (None: text only), bool `[B, N]` -> `[B, N, dim]`."""
        steps = self.units_per_token * torch.arange(text.shape[1], device=text.device)
        positions = sinusoids(steps, self.marks.embedding_dim)
        hidden = self.text_encoder(self.text_in(text) + positions, src_key_padding_mask=~valid)
        if codes is None:
            return hidden
        spoken = self.code_encoder(self.code_in(codes) + positions, src_key_padding_mask=~valid)
        weights = self.fusion.softmax(0)
        return weights[0] * hidden + weights[1] * spoken

    def forward(self, text: Tensor, codes: Tensor | None, valid: Tensor, units: Tensor, runs: Tensor) -> Prediction:
        """Teacher-forced predictions.

        Args:
            text: `[B, N, dim_in]` embedded text tokens. codes: `[B, N, dim_in]` each word's decoded codes on every subword.
            valid: bool `[B, N]`, False where padded.
            units: int64 `[B, M]`, padded with the end. runs: int64 `[B, M]`, in frames, 1 or more.
        """
        n_batch, n_units = units.shape
        start, task = self.marks.weight.expand(n_batch, 2, -1).split(1, dim=1)
        spoken = self.unit_in(units) + self.run_in(runs.clamp(max=MAX_RUN))
        stream = torch.cat([task, spoken], dim=1)
        stream = stream + sinusoids(torch.arange(n_units + 1, device=units.device), stream.shape[-1])
        x = torch.cat([start, self.fuse(text, codes, valid), stream], dim=1)
        # Padding of the prefix lies in the middle, so it is masked; that of the units is at the end, where causality hides it.
        seen = F.pad(F.pad(valid, (1, 0), value=True), (0, n_units + 1), value=True)
        blocked = ~(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril() & seen[:, None, :])
        n_heads = self.blocks.layers[0].self_attn.num_heads
        x = self.blocks(x, mask=blocked.repeat_interleave(n_heads, dim=0))[:, -n_units - 1 :]
        given = self.run_unit(F.pad(units, (0, 1), value=self.n_units))
        return Prediction(self.unit_out(x), self.run_out(x + given))


def targets(units: Tensor, runs: Tensor, lengths: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Unit and run-length targets, both int64 `[B, M + 1]` with IGNORE where there is nothing to predict.

    Args:
        units, runs: int64 `[B, M]`. lengths: int64 `[B]`, units of each. end: the id of the end, predicted after the last unit.
    """
    at = torch.arange(units.shape[1] + 1, device=units.device)
    unit = (
        F.pad(units, (0, 1), value=end)
        .masked_fill(at == lengths[:, None], end)
        .masked_fill(at > lengths[:, None], IGNORE)
    )
    run = F.pad(runs.clamp(max=MAX_RUN) - 1, (0, 1)).masked_fill(at >= lengths[:, None], IGNORE)
    return unit, run


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Sines and cosines of positions `[n]` -> `[n, dim]`, wavelengths from 2π to 20000π (arXiv 1706.03762, section 3.5)."""
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-torch.log(torch.tensor(10000.0)) / dim))
    angles = positions[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _transformer(dim: int, layers: int, dropout: float) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        dim, dim // 64, 2 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    layer.self_attn.dropout = 0.0  # on attention weights it would rule out the fused kernel
    return nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(dim), enable_nested_tensor=False)
