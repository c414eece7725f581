"""The full speech decoder: text tokens and TASTE codes -> speech units one by one, as TASTE has it (arXiv 2504.07053, section 2.2).

Its parts are CosyVoice's (arXiv 2407.05407, section 2): a text encoder, an encoder of the word vectors of the same kind, the
softmax-weighted sum of both, and a causal unit LM behind it. All attention knows relative positions (arXiv 1901.02860, section
3.3). The layers are our own and read no CosyVoice checkpoint. Meant for S3 units, and good for any that keep their repeats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from transforms.taste.blocks import sinusoids

IGNORE = -1
"""The target at positions from which nothing is learnt."""


@dataclass(frozen=True, slots=True)
class UnitLMShape:
    """Sizes of the full speech decoder.

    Attributes:
        n_units: size of the unit vocabulary; its end is unit `n_units`. n_tokens: of the text vocabulary.
        latent_dim: D, width of a word's vector. speaker_dim: of the speaker embedding (192: CAM++).
        dim_in, dim: width of the embeddings that enter the encoders, and of all that follows.
        heads, hidden: of every attention, and of every feed-forward layer.
        text_layers, code_layers, layers: of the text encoder, of the word vectors' encoder, of the unit LM.
    """

    n_units: int = 4096
    n_tokens: int = 51866
    latent_dim: int = 1280
    speaker_dim: int = 192
    dim_in: int = 512
    dim: int = 1024
    heads: int = 8
    hidden: int = 2048
    text_layers: int = 3
    code_layers: int = 2
    layers: int = 7
    dropout: float = 0.1


class Said(NamedTuple):
    """One utterance of N subwords and M units.

    Attributes:
        ids: int64 `[N]` text tokens. latents: `[N, D]`, the decoded codes of each subword's word; None: it is read from the text
            alone. speaker: `[S]`.
        units: int64 `[M]`.
    """

    ids: Tensor
    latents: Tensor | None
    speaker: Tensor
    units: Tensor


class Sequences(NamedTuple):
    """A batch, padded at the end.

    Attributes:
        inputs: `[B, L, dim]`. targets: int64 `[B, L]`, IGNORE where nothing is learnt. valid: bool `[B, L]`.
    """

    inputs: Tensor
    targets: Tensor
    valid: Tensor


class RelativeLayer(nn.Module):
    """Pre-norm self-attention with relative positions, then a feed-forward network: `[B, S, dim]` -> the same.

    A conformer block (arXiv 2005.08100) without its convolution and its half feed-forward layer comes to this.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.hidden_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value, self.mixed = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.distance = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))
        self.distance_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))
        self.widen, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, distances: Tensor, mask: Tensor) -> Tensor:
        """
        Args:
            distances: `[2S - 1, dim]`, sinusoids of S - 1, ..., -(S - 1). mask: bool `[B, 1, S, S]`, True where a query may look.
        """
        length = x.shape[1]
        both = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = both.permute(2, 0, 3, 1, 4)
        far = self.distance(distances).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        # Column k of row q is the distance q - k, which stands at S - 1 - (q - k).
        place = torch.arange(length, device=x.device)
        index = (length - 1 - place[:, None] + place).expand(len(x), self.heads, -1, -1)
        by_distance = ((query + self.distance_bias) @ far.transpose(-1, -2)).gather(-1, index)
        bias = (by_distance / query.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
        attended = F.scaled_dot_product_attention(query + self.content_bias, key, value, attn_mask=bias)
        x = x + self.dropout(self.mixed(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(self.dropout(F.silu(self.widen(self.hidden_norm(x))))))


class RelativeLayers(nn.Module):
    """A linear layer into `dim`, several RelativeLayers, and a norm: `[B, S, dim_in]` -> `[B, S, dim]`."""

    def __init__(self, dim_in: int, dim: int, count: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.enter, self.enter_norm = nn.Linear(dim_in, dim), nn.LayerNorm(dim)
        self.layers = nn.ModuleList(RelativeLayer(dim, heads, hidden, dropout) for _ in range(count))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, valid: Tensor, causal: bool = False) -> Tensor:
        """valid: bool `[B, S]`, False where padded; what comes out there means nothing."""
        length = x.shape[1]
        mask = valid[:, None, None, :].expand(-1, 1, length, -1)
        if causal:
            mask = mask & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        x = self.enter_norm(self.enter(x))
        distances = sinusoids(torch.arange(length - 1, -length, -1, device=x.device).float(), x.shape[-1])
        for layer in self.layers:
            x = layer(x, distances, mask)
        return self.norm(x)


class UnitLM(nn.Module):
    """Fused text and codes as a prefix, then the units, in one causal transformer.

    in:      [sos] [speaker] [fused_1 .. fused_N] [task] [u_1 .. u_M]
    target:    -       -        -    ..    -        u_1   u_2 .. end      (IGNORE on the first 2 + N)

    Attributes:
        voice: `[speaker_dim]`, the mean voice of the data, for who has no other.
    """

    voice: Tensor

    def __init__(self, shape: UnitLMShape) -> None:
        super().__init__()
        self.shape = s = shape
        more = (s.heads, s.hidden, s.dropout)
        self.token_embedding = nn.Embedding(s.n_tokens, s.dim_in)
        self.text_encoder = RelativeLayers(s.dim_in, s.dim, s.text_layers, *more)
        self.latent_in = nn.Linear(s.latent_dim, s.dim_in)
        self.code_encoder = RelativeLayers(s.dim_in, s.dim, s.code_layers, *more)
        self.fusion = nn.Parameter(torch.ones(2))
        """Weights of text and codes before the softmax."""
        self.speaker_in = nn.Linear(s.speaker_dim, s.dim)
        self.register_buffer("voice", torch.zeros(s.speaker_dim))
        self.marks = nn.Embedding(2, s.dim)
        """Start of sequence, and the task: what comes now is units."""
        self.unit_embedding = nn.Embedding(s.n_units, s.dim)
        self.lm = RelativeLayers(s.dim, s.dim, s.layers, *more)
        self.out = nn.Linear(s.dim, s.n_units + 1)

    def fuse(self, ids: Tensor, latents: Tensor, valid: Tensor, coded: Tensor) -> Tensor:
        """int64 `[B, N]`, `[B, N, D]`, bool `[B, N]`, bool `[B]`, False where there are no codes -> `[B, N, dim]`."""
        text = self.text_encoder(self.token_embedding(ids), valid)
        if not coded.any():
            return text
        codes = self.code_encoder(self.latent_in(latents), valid)
        weight = self.fusion.softmax(0)
        return torch.where(coded[:, None, None], weight[0] * text + weight[1] * codes, text)

    def sequences(self, batch: Sequence[Said]) -> Sequences:
        """Inputs and targets of a batch in the order above. Raises ValueError for a unit that is not in the vocabulary."""
        for said in batch:
            if len(said.units) and not 0 <= int(said.units.min()) <= int(said.units.max()) < self.shape.n_units:
                raise ValueError(
                    f"units {int(said.units.min())}..{int(said.units.max())}; the decoder has {self.shape.n_units}"
                )
        ids = pad_sequence([said.ids for said in batch], batch_first=True)
        none = self.latent_in.weight.new_zeros(1, self.shape.latent_dim)
        latents = pad_sequence(
            [none.expand(len(s.ids), -1) if s.latents is None else s.latents for s in batch], batch_first=True
        )
        coded = torch.tensor([said.latents is not None for said in batch], device=ids.device)
        lengths = torch.tensor([len(said.ids) for said in batch], device=ids.device)
        fused = self.fuse(ids, latents, torch.arange(ids.shape[1], device=ids.device) < lengths[:, None], coded)
        sos, task = self.marks.weight[:, None]
        inputs, targets = [], []
        for said, row in zip(batch, fused, strict=True):
            n = len(said.ids)
            # The embedding has length 1, whatever length it came with.
            speaker = self.speaker_in(F.normalize(said.speaker, dim=0))[None]
            inputs.append(torch.cat([sos, speaker, row[:n], task, self.unit_embedding(said.units)]))
            end = said.units.new_tensor([self.shape.n_units])
            targets.append(torch.cat([said.units.new_full((2 + n,), IGNORE), said.units, end]))
        valid = pad_sequence([torch.ones_like(t, dtype=torch.bool) for t in targets], batch_first=True)
        return Sequences(
            pad_sequence(inputs, batch_first=True),
            pad_sequence(targets, batch_first=True, padding_value=IGNORE),
            valid,
        )

    def forward(self, sequences: Sequences) -> Tensor:
        """Logits `[B, L, n_units + 1]`; the last is the end's."""
        return self.out(self.lm(sequences.inputs, sequences.valid, causal=True))

    def loss(self, batch: Sequence[Said]) -> Tensor:
        """Mean cross-entropy of the units and the ends, in nats."""
        sequences = self.sequences(batch)
        return F.cross_entropy(self(sequences).flatten(0, 1), sequences.targets.flatten(), ignore_index=IGNORE)

    @torch.no_grad()
    def sample(
        self,
        said: Said,
        generator: torch.Generator,
        *,
        top_k: int = 25,
        at_least: float = 2.0,
        at_most: float = 20.0,
    ) -> Tensor:
        """Units drawn one by one after `said.units`, which are spoken already: int64 `[m]`, without those and the end.

        Every step reads the whole sequence again: quadratic, and meant for looking at what a fit has learnt.

        Args:
            top_k: drawn are only the likeliest so many. at_least, at_most: units for each text token, between which it ends.
        """
        begun = len(said.units)
        fewest, most = round(at_least * len(said.ids)), round(at_most * len(said.ids))
        while len(said.units) - begun < most:
            logits = self(self.sequences([said]))[0, -1].float()
            if len(said.units) - begun < fewest:
                logits[self.shape.n_units] = float("-inf")
            best = logits.topk(min(top_k, len(logits)))
            chosen = torch.multinomial(best.values.softmax(0).cpu(), 1, generator=generator)
            unit = best.indices[chosen.to(best.indices.device)]
            if int(unit) == self.shape.n_units:
                break
            said = said._replace(units=torch.cat([said.units, unit]))
        return said.units[begun:]
