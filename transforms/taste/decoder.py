"""The compact speech decoder: words and TASTE codes -> speech units. Its loss is what the tokenizer learns from.

It follows TASTE's decoder (arXiv 2504.07053, section 2.2) at a smaller size, with three differences, which little data asks for.
A word is read as its phones beside its text tokens, since some hours hold too few words to learn spelling from. Units are
de-duplicated and each comes with its run length, which halves the sequence and makes every prediction a change of sound. And a
reading mark goes from word to word: how long each word lasts is told from its text and codes beforehand, and the decoder is told
of each unit which word it stands in, for how long, and for how long yet, so that it cannot skip or repeat one.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transforms.taste.blocks import Cache, Layers, sinusoids
from transforms.taste.phones import SYMBOLS

MAX_RUN = 16
"""Longest run length in one step, in frames of 20 ms; a longer run takes several steps of the same unit."""

MAX_TOLD = 63
"""Frames since the word began, and until it ends, that are told apart; more count as this."""


class Phones(NamedTuple):
    """ids: int64 `[B, P]`, as `transforms.taste.phones` numbers them. valid: bool `[B, P]`, False where padded. words: int64, the
    word of each valid phone in row order, counted through the batch."""

    ids: Tensor
    valid: Tensor
    words: Tensor


class Prediction(NamedTuple):
    """Logits. units: `[B, M, n_units]`. runs: `[B, M, MAX_RUN]`, for lengths 1, 2, ..."""

    units: Tensor
    runs: Tensor


class Fused(NamedTuple):
    """What the decoder reads before the units.

    Attributes:
        prefix: `[B, 1 + P, dim]`, start, and phones with their words' text and codes. valid: bool `[B, 1 + P]`.
        words: `[words in the batch, dim]`, the mean over each word's phones.
        log_frames: `[words in the batch]`, natural logarithm of how many frames of 20 ms each word lasts.
    """

    prefix: Tensor
    valid: Tensor
    words: Tensor
    log_frames: Tensor


class Spoken(NamedTuple):
    """Units as they are predicted one by one, each int64 `[B, M]`, padded with 0.

    Attributes:
        units: their ids. runs: frames of each, 1 to MAX_RUN. words: the word of each, counted through the batch.
        elapsed: frames from the beginning of the word to that of the unit. left: from there to the end of the word.
    """

    units: Tensor
    runs: Tensor
    words: Tensor
    elapsed: Tensor
    left: Tensor


class SpeechDecoder(nn.Module):
    """Fused words and codes as a prefix, then the units, in one causal transformer.

    in:  [start] [fused_1 .. fused_P] [first] [u_1, r_1] .. [u_M-1, r_M-1]   each beside its word and its time in it
    out:                               u_1     u_2      ..   u_M             with its length

    Attributes:
        voice: `[speaker_dim]`, the mean voice of the data, for who has no other.
    """

    voice: Tensor

    def __init__(
        self,
        dim_in: int,
        n_units: int,
        *,
        n_phones: int = len(SYMBOLS),
        dim: int = 256,
        layers: int = 4,
        text_layers: int = 3,
        code_layers: int = 1,
        speaker_dim: int = 256,
        units_per_phone: float = 2.0,
        dropout: float = 0.1,
        history_dropout: float = 0.0,
    ) -> None:
        """
        Args:
            dim_in: width of the text embeddings and of the decoded codes.
            text_layers, code_layers: of the encoder of the text, and of that of the codes.
            speaker_dim: width of the speaker embedding, of length 1; all zeros where the speaker is not known.
            units_per_phone: units that one phone lasts on average. The positions of the prefix advance by as much, so
                that a unit starts out near the phone that it belongs to, as in Deep Voice 3 (arXiv 1710.07654, section 3.5).
            history_dropout: share of the units before that are hidden in fitting, so that the text is heeded, and a
                mistake in what was said before does not lead to the next (arXiv 1511.06349, section 3.1).
        """
        super().__init__()
        self.shape = {
            "dim_in": dim_in,
            "n_units": n_units,
            "n_phones": n_phones,
            "dim": dim,
            "layers": layers,
            "text_layers": text_layers,
            "code_layers": code_layers,
            "speaker_dim": speaker_dim,
            "units_per_phone": units_per_phone,
        }
        self.n_units, self.units_per_phone, self.dim = n_units, units_per_phone, dim
        self.history_dropout = history_dropout
        self.phone_in = nn.Embedding(n_phones, dim)
        self.text_in, self.code_in = nn.Linear(dim_in, dim), nn.Linear(dim_in, dim)
        self.speaker_in = nn.Linear(speaker_dim, dim)
        self.register_buffer("voice", torch.zeros(speaker_dim))
        self.text_encoder = Layers(dim, text_layers, dim // 64, 2 * dim, dropout)
        self.code_encoder = Layers(dim, code_layers, dim // 64, 2 * dim, dropout)
        self.fusion = nn.Parameter(torch.zeros(2))
        self.length_out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1))
        self.marks = nn.Embedding(3, dim)
        self.unit_in = nn.Embedding(n_units, dim)
        self.run_in = nn.Embedding(MAX_RUN, dim)
        self.elapsed_in = nn.Embedding(MAX_TOLD + 1, dim)
        self.left_in = nn.Embedding(MAX_TOLD + 1, dim)
        self.word_in = nn.Linear(dim, dim)
        self.blocks = Layers(dim, layers, dim // 64, 2 * dim, dropout)
        self.unit_out = nn.Linear(dim, n_units)
        self.given_unit = nn.Embedding(n_units, dim)
        self.run_out = nn.Linear(dim, MAX_RUN)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02 * dim**0.5)

    def fuse(
        self, text: Tensor, codes: Tensor | None, phones: Phones, speaker: Tensor, coded: Tensor | None = None
    ) -> Fused:
        """Everything but the units.

        Args:
            text: `[W, dim_in]`, for each word of the batch the mean of its text tokens' embeddings. codes: `[W, dim_in]`, each
                word's decoded codes; None: text only. speaker: `[B, speaker_dim]`.
            coded: bool `[B]`, False for utterances that are to be read from the text alone; None: none of them.
        """
        valid, of_word = phones.valid, phones.words
        steps = self.units_per_phone * torch.arange(valid.shape[1], device=valid.device)
        positions = sinusoids(steps, self.dim)
        mask = valid[:, None, None, :]

        def at_phones(words: Tensor) -> Tensor:
            return words.new_zeros(*valid.shape, self.dim).index_put((valid,), words[of_word])

        read = self.phone_in(phones.ids) + at_phones(self.text_in(text)) + self.speaker_in(speaker)[:, None]
        fused = self.text_encoder(read + positions, mask)
        if codes is not None:
            heard = self.code_encoder(at_phones(self.code_in(codes)) + positions, mask)
            weights = self.fusion.softmax(0)
            both = weights[0] * fused + weights[1] * heard
            fused = both if coded is None else torch.where(coded[:, None, None], both, fused)
        flat = fused[valid].float()
        counts = torch.bincount(of_word, minlength=len(text))[:, None]
        words = flat.new_zeros(len(text), self.dim).index_add(0, of_word, flat) / counts
        start = self.marks.weight[0].expand(len(valid), 1, -1)
        prefix = torch.cat([start, fused.to(start.dtype)], dim=1)
        log_frames = self.length_out(words)[:, 0]
        return Fused(prefix, F.pad(valid, (1, 0), value=True), words, log_frames)

    def forward(self, fused: Fused, spoken: Spoken) -> Prediction:
        """Teacher-forced predictions of every unit."""
        n_units = spoken.units.shape[1]
        first = self.marks.weight[1].expand(len(spoken.units), 1, -1)
        before = self.unit_in(spoken.units[:, :-1]) + self.run_in(spoken.runs[:, :-1].clamp(min=1) - 1)
        if self.training and self.history_dropout:
            hidden = torch.rand(*before.shape[:2], 1, device=before.device) < self.history_dropout
            before = torch.where(hidden, self.marks.weight[2], before)
        stream = torch.cat([first, before], dim=1)
        stream = stream + sinusoids(torch.arange(n_units, device=stream.device), self.dim)
        stream = stream + self.word_in(fused.words[spoken.words])
        stream = (
            stream + self.elapsed_in(spoken.elapsed.clamp(max=MAX_TOLD)) + self.left_in(spoken.left.clamp(max=MAX_TOLD))
        )
        x = torch.cat([fused.prefix, stream], dim=1)
        # Padding of the prefix lies in the middle, so it is masked; that of the units is at the end, where causality hides it.
        seen = F.pad(fused.valid, (0, n_units), value=True)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril() & seen[:, None, None, :]
        x = self.blocks(x, mask)[:, -n_units:]
        return Prediction(self.unit_out(x), self.run_out(x + self.given_unit(spoken.units)))

    # ── one unit after the other ──────────────────────────────────────────────────────────────────────────────────────

    def start(self, fused: Fused, cache: Cache) -> None:
        """Read the prefix of one utterance."""
        length = fused.prefix.shape[1]
        self.blocks(
            fused.prefix, torch.ones(length, length, dtype=torch.bool, device=fused.prefix.device).tril(), cache
        )

    def step(self, before: Tensor, at: int, word: Tensor, elapsed: int, left: int, cache: Cache) -> Tensor:
        """The state `[dim]` that predicts unit `at`, from `before` (`first` or `said`), its word's vector, and the time since the
        word began and until it ends, in frames."""
        stream = before + sinusoids(torch.tensor([at], device=before.device), self.dim)[0] + self.word_in(word)
        stream = stream + self.elapsed_in.weight[min(elapsed, MAX_TOLD)] + self.left_in.weight[min(left, MAX_TOLD)]
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
