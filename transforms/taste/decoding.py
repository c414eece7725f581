"""The two speech decoders as a fit sees them: a batch, its words' codes -> a loss, and how well the units were predicted.

*compact*: `transforms.taste.decoder`, the unit of each frame and how long phones last. *unit_lm*: `transforms.taste.unit_lm`, the
paper's, one unit after the other and an end.
"""

from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transforms.taste import examples as ex
from transforms.taste.aggregator import FRAME_HZ, word_mean
from transforms.taste.decoder import SpeechDecoder
from transforms.taste.options import FitTasteOptions
from transforms.taste.unit_lm import IGNORE, Said, UnitLM, UnitLMShape


@dataclass(frozen=True, slots=True)
class Scores:
    """Sums over predicted units and words, and what they come to. near: words whose length was told to 50 ms."""

    units: int = 0
    loss: float = 0.0
    top1: int = 0
    top5: int = 0
    words: int = 0
    near: int = 0

    @classmethod
    def of(cls, logits: Tensor, target: Tensor) -> "Scores":
        """Those of `[n, C]` logits for `[n]` targets."""
        best = logits.topk(5, dim=-1).indices == target[:, None]
        loss = float(F.cross_entropy(logits, target, reduction="sum"))
        return cls(len(target), loss, int(best[:, 0].sum()), int(best.any(dim=1).sum()))

    def __add__(self, other: "Scores") -> "Scores":
        return Scores(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def figures(self) -> dict[str, float]:
        """Means over the predicted units: the loss in nats, and how often the unit is the first or among the first five. And the
        share of words whose length is told to 50 ms, of a decoder that tells it."""
        n = max(1, self.units)
        shares = {"loss": self.loss / n, "top1": self.top1 / n, "top5": self.top5 / n}
        if self.words:
            shares["lengths"] = self.near / self.words
        return {name: round(share, 4) for name, share in shares.items()}


class Decoding(Protocol):
    """A decoder in fitting. `shape`: what it is made from, for the file's card. `network`: what is fitted."""

    network: nn.Module
    shape: dict[str, Any]

    def __call__(
        self, batch: ex.Batch, embedding: nn.Module, codes: Tensor | None, coded: Tensor | None
    ) -> tuple[Tensor, Scores]:
        """Teacher-forced predictions of a batch.

        Args:
            embedding: of the recogniser's text tokens. codes: `[words in the batch, D]`; None: the text alone.
            coded: bool `[B]`, False for utterances that are to be read from the text alone; None: none of them.
        """
        ...


class Compact:
    """The compact decoder."""

    def __init__(self, dim_in: int, options: FitTasteOptions, voice_dim: int) -> None:
        self.network = SpeechDecoder(dim_in, options.n_units, speaker_dim=voice_dim, dropout=options.dropout)
        self.shape, self._length_weight = self.network.shape, options.length_weight

    def __call__(
        self, batch: ex.Batch, embedding: nn.Module, codes: Tensor | None, coded: Tensor | None
    ) -> tuple[Tensor, Scores]:
        """The loss is that of units, and of the lengths of words, of phones in them, and of pauses."""
        text = word_mean(embedding(batch.ids[batch.valid]).float(), batch.word_ids, batch.n_words)
        fused = self.network.fuse(text, codes, batch.phones, batch.voices, coded)
        logits = self.network(fused, batch.frames)
        there = torch.arange(logits.shape[1], device=logits.device) < batch.lengths[:, None]
        units, target = logits[there].float(), batch.units[there]
        frames, said = batch.frames.float(), ~fused.boundary
        words = fused.log_frames.new_zeros(batch.n_words).index_add(0, fused.words[said], frames[said])
        lengths = F.l1_loss(fused.log_frames, words.log())
        # The cross-entropy of which phone a frame of the word belongs to.
        of_words = frames / words[fused.words]
        lengths = lengths - (of_words * fused.shares.clamp(min=1e-9).log())[said].sum() / batch.n_words
        lengths = lengths + F.l1_loss(fused.log_pauses[fused.boundary], frames[fused.boundary].log1p())
        loss = F.cross_entropy(units, target) + self._length_weight * lengths
        near = (fused.log_frames.detach().exp().round() - words).abs() <= 0.05 * FRAME_HZ
        return loss, replace(Scores.of(units.detach(), target), words=len(near), near=int(near.sum()))


class FullSize:
    """The paper's unit LM."""

    def __init__(self, dim_in: int, n_tokens: int, options: FitTasteOptions, voice_dim: int) -> None:
        wanted = {"n_units": options.n_units, "n_tokens": n_tokens, "latent_dim": dim_in, "speaker_dim": voice_dim}
        shape = UnitLMShape(**(options.unit_lm | wanted), dropout=options.dropout)
        self.network, self.shape = UnitLM(shape), asdict(shape)

    def __call__(
        self, batch: ex.Batch, embedding: nn.Module, codes: Tensor | None, coded: Tensor | None
    ) -> tuple[Tensor, Scores]:
        """The loss is that of units and ends."""
        latents = None if codes is None else _at_subwords(codes, batch)
        said = []
        for b, (n, m) in enumerate(zip(batch.valid.sum(1).tolist(), batch.lengths.tolist(), strict=True)):
            heard = None if latents is None or (coded is not None and not coded[b]) else latents[b, :n]
            said.append(Said(batch.ids[b, :n], heard, batch.voices[b], batch.units[b, :m]))
        sequences = self.network.sequences(said)
        learnt = sequences.targets != IGNORE
        logits, target = self.network(sequences)[learnt].float(), sequences.targets[learnt]
        return F.cross_entropy(logits, target), Scores.of(logits.detach(), target)


def _at_subwords(words: Tensor, batch: ex.Batch) -> Tensor:
    """`[words in the batch, D]` -> `[B, N, D]`, on every subword of each word."""
    return words.new_zeros(*batch.valid.shape, words.shape[1]).index_put((batch.valid,), words[batch.word_ids])
