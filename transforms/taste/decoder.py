"""The compact speech decoder: text tokens and TASTE codes -> speech units. Its loss is what the tokenizer learns from.

It follows TASTE's decoder (arXiv 2504.07053, section 2.2) at a smaller size, with two differences, which little data asks for.
Units are de-duplicated and each comes with its run length, which halves the sequence and makes every prediction a change of
sound. And a reading mark goes from word to word: the decoder says of each unit whether the word ends with it, and is told which
word it stands in and for how long, so that it cannot skip or repeat one. Where a word ends is learnt from the words' times.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transforms.taste.blocks import Cache, Layers, sinusoids

MAX_RUN = 16
"""Longest run length in one step, in frames of 20 ms; a longer run takes several steps of the same unit."""

MAX_ELAPSED = 63
"""Frames since the word began that are told apart; later ones count as this."""


class Prediction(NamedTuple):
    """Logits. units: `[B, M, n_units]`. runs: `[B, M, MAX_RUN]`, for lengths 1, 2, ... ends: `[B, M]`, that a word ends."""

    units: Tensor
    runs: Tensor
    ends: Tensor


class Fused(NamedTuple):
    """What the decoder reads before the units.

    Attributes:
        prefix: `[B, P, dim]`, start, speaker and text tokens with their codes. valid: bool `[B, P]`.
        words: `[words in the batch, dim]`, the mean over each word's tokens.
    """

    prefix: Tensor
    valid: Tensor
    words: Tensor


class Spoken(NamedTuple):
    """Units as they are predicted one by one, each int64 `[B, M]`, padded with 0.

    Attributes:
        units: their ids. runs: frames of each, 1 to MAX_RUN. words: the word of each, counted through the batch.
        elapsed: frames from the beginning of the word to that of the unit. ends: 1 where the word ends with the unit.
    """

    units: Tensor
    runs: Tensor
    words: Tensor
    elapsed: Tensor
    ends: Tensor


class SpeechDecoder(nn.Module):
    """Fused text and codes as a prefix, then the units, in one causal transformer.

    in:  [start] [speaker] [fused_1 .. fused_N] [first] [u_1, r_1] .. [u_M-1, r_M-1]   each beside its word and time in it
    out:                                         u_1     u_2      ..   u_M             with its length, and if the word ends

    Attributes:
        voice: `[speaker_dim]`, the mean voice of the data, for who has no other.
    """

    voice: Tensor

    def __init__(
        self,
        dim_in: int,
        n_units: int,
        *,
        dim: int = 256,
        layers: int = 4,
        text_layers: int = 1,
        speaker_dim: int = 256,
        units_per_token: float = 8.0,
        dropout: float = 0.1,
    ) -> None:
        """
        Args:
            dim_in: width of the text embeddings and of the decoded codes.
            text_layers: layers of the text encoder, and of the code encoder.
            speaker_dim: width of the speaker embedding, of length 1; all zeros where the speaker is not known.
            units_per_token: units that one text token lasts on average. The positions of the prefix advance by as much, so
                that a unit starts out near the token that it belongs to, as in Deep Voice 3 (arXiv 1710.07654, section 3.5).
        """
        super().__init__()
        self.shape = {
            "dim_in": dim_in,
            "n_units": n_units,
            "dim": dim,
            "layers": layers,
            "text_layers": text_layers,
            "speaker_dim": speaker_dim,
            "units_per_token": units_per_token,
        }
        self.n_units, self.units_per_token, self.dim = n_units, units_per_token, dim
        self.text_in, self.code_in = nn.Linear(dim_in, dim), nn.Linear(dim_in, dim)
        self.speaker_in = nn.Linear(speaker_dim, dim)
        self.register_buffer("voice", torch.zeros(speaker_dim))
        self.text_encoder = Layers(dim, text_layers, dim // 64, 2 * dim, dropout)
        self.code_encoder = Layers(dim, text_layers, dim // 64, 2 * dim, dropout)
        self.fusion = nn.Parameter(torch.zeros(2))
        self.marks = nn.Embedding(2, dim)
        self.unit_in = nn.Embedding(n_units, dim)
        self.run_in = nn.Embedding(MAX_RUN, dim)
        self.elapsed_in = nn.Embedding(MAX_ELAPSED + 1, dim)
        self.word_in = nn.Linear(dim, dim)
        self.blocks = Layers(dim, layers, dim // 64, 2 * dim, dropout)
        self.unit_out = nn.Linear(dim, n_units)
        self.given_unit, self.given_run = nn.Embedding(n_units, dim), nn.Embedding(MAX_RUN, dim)
        self.run_out = nn.Linear(dim, MAX_RUN)
        self.end_out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1))
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02 * dim**0.5)

    def fuse(
        self,
        text: Tensor,
        codes: Tensor | None,
        valid: Tensor,
        word_ids: Tensor,
        speaker: Tensor,
        coded: Tensor | None = None,
    ) -> Fused:
        """Everything but the units.

        Args:
            text: `[B, N, dim_in]` embedded text tokens. codes: `[B, N, dim_in]` each word's decoded codes on every subword;
                None: text only. valid: bool `[B, N]`, False where padded. word_ids: int64, the word of each valid token in
                row order, counted through the batch. speaker: `[B, speaker_dim]`.
            coded: bool `[B]`, False for utterances that are to be read from the text alone; None: none of them.
        """
        steps = self.units_per_token * torch.arange(text.shape[1], device=text.device)
        positions = sinusoids(steps, self.dim)
        mask = valid[:, None, None, :]
        fused = self.text_encoder(self.text_in(text) + positions, mask)
        if codes is not None:
            heard = self.code_encoder(self.code_in(codes) + positions, mask)
            weights = self.fusion.softmax(0)
            both = weights[0] * fused + weights[1] * heard
            fused = both if coded is None else torch.where(coded[:, None, None], both, fused)
        flat = fused[valid].float()
        n_words = int(word_ids[-1]) + 1 if len(word_ids) else 0
        counts = torch.bincount(word_ids, minlength=n_words)[:, None]
        words = flat.new_zeros(n_words, self.dim).index_add(0, word_ids, flat) / counts
        start = self.marks.weight[0].expand(len(text), 1, -1)
        prefix = torch.cat([start, self.speaker_in(speaker)[:, None], fused.to(start.dtype)], dim=1)
        return Fused(prefix, F.pad(valid, (2, 0), value=True), words)

    def forward(self, fused: Fused, spoken: Spoken) -> Prediction:
        """Teacher-forced predictions of every unit."""
        n_units = spoken.units.shape[1]
        first = self.marks.weight[1].expand(len(spoken.units), 1, -1)
        before = self.unit_in(spoken.units[:, :-1]) + self.run_in(spoken.runs[:, :-1].clamp(min=1) - 1)
        stream = torch.cat([first, before], dim=1)
        stream = stream + sinusoids(torch.arange(n_units, device=stream.device), self.dim)
        stream = (
            stream + self.word_in(fused.words[spoken.words]) + self.elapsed_in(spoken.elapsed.clamp(max=MAX_ELAPSED))
        )
        x = torch.cat([fused.prefix, stream], dim=1)
        # Padding of the prefix lies in the middle, so it is masked; that of the units is at the end, where causality hides it.
        seen = F.pad(fused.valid, (0, n_units), value=True)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril() & seen[:, None, None, :]
        x = self.blocks(x, mask)[:, -n_units:]
        return self._predict(x, spoken.units, spoken.runs)

    def _predict(self, x: Tensor, units: Tensor, runs: Tensor) -> Prediction:
        told = x + self.given_unit(units)
        ends = self.end_out(told + self.given_run(runs.clamp(min=1) - 1))[..., 0]
        return Prediction(self.unit_out(x), self.run_out(told), ends)

    # ── one unit after the other ──────────────────────────────────────────────────────────────────────────────────────

    def start(self, fused: Fused, cache: Cache) -> None:
        """Read the prefix of one utterance."""
        length = fused.prefix.shape[1]
        self.blocks(
            fused.prefix, torch.ones(length, length, dtype=torch.bool, device=fused.prefix.device).tril(), cache
        )

    def step(self, before: Tensor, at: int, word: Tensor, elapsed: int, cache: Cache) -> Tensor:
        """The state `[dim]` that predicts unit `at`, from `before` (`first` or `said`), its word's vector and the time in it."""
        stream = before + sinusoids(torch.tensor([at], device=before.device), self.dim)[0] + self.word_in(word)
        stream = stream + self.elapsed_in.weight[min(elapsed, MAX_ELAPSED)]
        return self.blocks(stream[None, None], None, cache)[0, 0]

    def first(self) -> Tensor:
        """`[dim]`: stands before the first unit."""
        return self.marks.weight[1]

    def said(self, unit: int, run: int) -> Tensor:
        """`[dim]`: stands before the unit after this one."""
        return self.unit_in.weight[unit] + self.run_in.weight[run - 1]

    def run_logits(self, state: Tensor, unit: int) -> Tensor:
        """`[MAX_RUN]`: how long the unit lasts."""
        return self.run_out(state + self.given_unit.weight[unit])

    def end_logit(self, state: Tensor, unit: int, run: int) -> Tensor:
        """That the word ends with this unit."""
        return self.end_out(state + self.given_unit.weight[unit] + self.given_run.weight[run - 1])[0]
