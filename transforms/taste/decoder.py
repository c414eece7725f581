"""The compact speech decoder: words and TASTE codes -> how long each phone lasts, and the unit of each frame.

Its loss is what the tokenizer learns from, as in TASTE (arXiv 2504.07053, section 2.2), but it is built for some hours of speech.
A word is read as its phones beside its text tokens, since so little holds too few words to learn spelling from. Lengths come
first and the units of all frames at once, as in FastSpeech (arXiv 1905.09263): a decoder that goes on from units which it drew
itself must have learnt not to lose its place, and on so little it had not (docs/log.md).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transforms.codec.network import Block
from transforms.taste.blocks import Layers, sinusoids
from transforms.taste.phones import BOUNDARIES, SYMBOLS

MAX_TOLD = 63
"""Frames since the phone began, and until it ends, that are told apart; more count as this."""


class Phones(NamedTuple):
    """ids: int64 `[B, P]`, as `transforms.taste.phones` numbers them. valid: bool `[B, P]`, False where padded. words: int64, the
    word of each valid phone in row order, counted through the batch."""

    ids: Tensor
    valid: Tensor
    words: Tensor


class Fused(NamedTuple):
    """What is known of each phone before its units, valid phones in row order, N of them, of W words.

    Attributes:
        states: `[N, dim]`. counts: int64 `[B]`, phones of each utterance. words: int64 `[N]`, the word of each.
        boundary: bool `[N]`, whether it stands between words.
        log_frames: `[W]`, natural logarithm of how many frames of 20 ms each word lasts, without boundaries.
        shares: `[N]`, each phone's share in them; 0 for boundaries.
        log_pauses: `[N]`, logarithm of one more than the frames of a boundary; of no meaning for phones.
    """

    states: Tensor
    counts: Tensor
    words: Tensor
    boundary: Tensor
    log_frames: Tensor
    shares: Tensor
    log_pauses: Tensor


class SpeechDecoder(nn.Module):
    """Transformer encoders over phones and codes; then, with every phone repeated for its frames, convolutions over frames.

    Attributes:
        voice: `[speaker_dim]`, the mean voice of the data, for who has no other.
    """

    voice: Tensor
    boundaries: Tensor

    def __init__(
        self,
        dim_in: int,
        n_units: int,
        *,
        n_phones: int = len(SYMBOLS),
        dim: int = 256,
        blocks: int = 6,
        kernel: int = 7,
        text_layers: int = 2,
        joint_layers: int = 2,
        speaker_dim: int = 256,
        dropout: float = 0.1,
    ) -> None:
        """
        Args:
            dim_in: width of the text embeddings and of the decoded codes.
            blocks, kernel: of the convolutions over frames. text_layers, joint_layers: of the encoder of the text, and of
                the one that reads text and codes. speaker_dim: width of the speaker embedding, of length 1; all zeros where
                the speaker is not known.
        """
        super().__init__()
        self.shape = {
            "dim_in": dim_in,
            "n_units": n_units,
            "n_phones": n_phones,
            "dim": dim,
            "blocks": blocks,
            "kernel": kernel,
            "text_layers": text_layers,
            "joint_layers": joint_layers,
            "speaker_dim": speaker_dim,
        }
        self.dim = dim
        self.phone_in = nn.Embedding(n_phones, dim)
        self.text_in, self.code_in = nn.Linear(dim_in, dim), nn.Linear(dim_in, dim)
        self.speaker_in = nn.Linear(speaker_dim, dim)
        self.register_buffer("voice", torch.zeros(speaker_dim))
        self.register_buffer("boundaries", torch.from_numpy(BOUNDARIES), persistent=False)
        self.text_encoder = Layers(dim, text_layers, dim // 64, 2 * dim, dropout)
        self.joint_encoder = Layers(dim, joint_layers, dim // 64, 2 * dim, dropout)
        self.fusion = nn.Parameter(torch.zeros(2))
        self.length_out, self.phone_out = _reader(dim, 1), _reader(dim, 2)
        self.elapsed_in = nn.Embedding(MAX_TOLD + 1, dim)
        self.left_in = nn.Embedding(MAX_TOLD + 1, dim)
        self.blocks = nn.ModuleList(Block(dim, 2, kernel) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)
        self.unit_out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, n_units))
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
        positions = sinusoids(torch.arange(valid.shape[1], device=valid.device), self.dim)
        mask = valid[:, None, None, :]

        def at_phones(words: Tensor) -> Tensor:
            return words.new_zeros(*valid.shape, self.dim).index_put((valid,), words[of_word])

        read = self.phone_in(phones.ids) + at_phones(self.text_in(text)) + self.speaker_in(speaker)[:, None]
        fused = self.text_encoder(read + positions, mask)
        if codes is not None:
            weights = self.fusion.softmax(0)
            both = weights[0] * fused + weights[1] * at_phones(self.code_in(codes))
            fused = both if coded is None else torch.where(coded[:, None, None], both, fused)
        fused = self.joint_encoder(fused, mask)
        states = fused[valid].float()
        boundary = torch.isin(phones.ids[valid], self.boundaries)
        said = (~boundary).float()

        def of_words(values: Tensor) -> Tensor:
            return values.new_zeros(len(text), *values.shape[1:]).index_add(0, of_word, values)

        words = of_words(states * said[:, None]) / of_words(said)[:, None]
        log_pauses, logits = self.phone_out(states).float().unbind(-1)
        # Of a size that exp can bear; the softmax is over the phones of each word.
        weights = (15 * torch.tanh(logits / 15)).exp() * said
        return Fused(
            states,
            valid.sum(1),
            of_word,
            boundary,
            self.length_out(words).float()[:, 0],
            weights / of_words(weights)[of_word],
            log_pauses,
        )

    def forward(self, fused: Fused, frames: Tensor) -> Tensor:
        """Logits of the unit of each frame, `[B, T, n_units]`; those after an utterance's last frame say nothing.

        Args:
            frames: int64 `[N]`, how many each phone lasts.
        """
        elapsed = torch.arange(int(frames.sum()), device=frames.device)
        elapsed = elapsed - torch.repeat_interleave(frames.cumsum(0) - frames, frames)
        left = torch.repeat_interleave(frames, frames) - elapsed
        x = torch.repeat_interleave(fused.states, frames, dim=0)
        x = x + self.elapsed_in(elapsed.clamp(max=MAX_TOLD)) + self.left_in(left.clamp(max=MAX_TOLD))
        utterance = torch.repeat_interleave(torch.arange(len(fused.counts), device=frames.device), fused.counts)
        lengths = frames.new_zeros(len(fused.counts)).index_add(0, utterance, frames)
        there = torch.arange(int(lengths.max()), device=frames.device) < lengths[:, None]
        x = x.new_zeros(*there.shape, self.dim).index_put((there,), x).transpose(1, 2)
        for block in self.blocks:
            # Padding stays at zero, as what is before and after an utterance alone is.
            x = self.dropout(block(x)) * there[:, None]
        logits: Tensor = self.unit_out(x.transpose(1, 2))
        return logits

    def lengths(self, fused: Fused, max_word_frames: int) -> Tensor:
        """How many frames each phone lasts, int64 `[N]`: a word at least one, and no word or pause more than the greatest."""
        words = fused.log_frames.exp().round().clamp(1, max_word_frames)
        ends = fused.shares.double().cumsum(0)
        before = F.pad(ends, (1, 0))[:-1]
        first = torch.zeros_like(words, dtype=torch.float64).scatter_reduce(
            0, fused.words, before, "amin", include_self=False
        )
        total = words.double()[fused.words]
        cut = ((ends - first[fused.words]) * total).round() - ((before - first[fused.words]) * total).round()
        pauses = fused.log_pauses.expm1().round().clamp(0, max_word_frames)
        return torch.where(fused.boundary, pauses.double(), cut).long()


def _reader(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out))
