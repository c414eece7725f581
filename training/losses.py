"""Losses by label and by stream: what a batch's loss is made of, for the log, for reports, and for scoring."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.distributed import Ranks
from training.layouts.base import Row


@dataclass
class StreamLosses:
    """Cross-entropy in nats, summed, and how many labels it was summed over, by stream.

    Streams are the layout's rows, except that the text row gives two: "text", which token where there is one, and "pad",
    whether there is a token or which special (when words begin, and where the text ends).
    """

    total: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    def add(self, stream: str, losses: Tensor, n: int | None = None) -> None:
        """Add the losses `[n]` of a stream's labels, accumulated in float64. `n`: of how many labels, if not one each."""
        if losses.numel():
            self.total[stream] = self.total.get(stream, 0.0) + float(losses.detach().double().sum())
            self.count[stream] = self.count.get(stream, 0) + (losses.numel() if n is None else n)

    def update(self, other: "StreamLosses") -> None:
        for stream, total in other.total.items():
            self.total[stream] = self.total.get(stream, 0.0) + total
            self.count[stream] = self.count.get(stream, 0) + other.count[stream]

    def summed(self, ranks: Ranks, device: torch.device | str) -> "StreamLosses":
        """Over all processes, which have the same streams to learn but not all of them at each step."""
        if ranks.size == 1:
            return self
        everyone: list[Any] = [None] * ranks.size
        torch.distributed.all_gather_object(everyone, (self.total, self.count))
        found = StreamLosses()
        for total, count in everyone:
            found.update(StreamLosses(total, count))
        return found

    def means(self) -> dict[str, float]:
        return {stream: total / self.count[stream] for stream, total in self.total.items()}


@dataclass
class LabelLosses:
    """Cross-entropies in nats of single labels, that is their negative log-probabilities, with their gradients.

    Attributes:
        rows: the layout's. losses: float `[B, S, R]`, 0 where nothing is learnt; the text row's is that of the special or token
            as `text_log_probs` gives it. learnt: bool `[B, S, R]`. weights: float32 `[B, S, R]`, the labels' within their group.
        text_kinds, text_tokens: the two parts of the text row's losses, `[n]` over its labels and `[m]` over its tokens.
        latent: `[n]`, the losses of a head for continuous targets, None where there is none. A Gaussian head's are also the
            `losses` of each speech row.
        ctc, n_units: negative log-probabilities `[N]` of the units of N documents by CTC, and how many units these are.
        divergence: of the m tokens, how much more the comparison with the frozen trunk costs than the cross-entropy, and where
            they are; None where it is not asked for.
    """

    rows: tuple[Row, ...]
    losses: Tensor
    learnt: Tensor
    weights: Tensor
    text_kinds: Tensor = field(default_factory=lambda: torch.zeros(0))
    text_tokens: Tensor = field(default_factory=lambda: torch.zeros(0))
    latent: Tensor | None = None
    divergence: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
    ctc: Tensor | None = None
    n_units: int = 0

    def put(self, at: tuple[Tensor, Tensor], row: int, losses: Tensor) -> None:
        """Take the losses `[n]` of one row at n positions."""
        self.losses = self.losses.index_put((*at, torch.full_like(at[0], row)), losses)

    def by_stream(self) -> StreamLosses:
        """Sums and counts by stream."""
        streams = StreamLosses()
        streams.add("pad", self.text_kinds)
        streams.add("text", self.text_tokens)
        if self.latent is not None:
            streams.add("latent", self.latent)
        if self.divergence:
            streams.add("text_kl", (self.divergence[0] + self.text_tokens)[self.divergence[0] != 0])
        for r, row in enumerate(self.rows[1:], start=1):
            streams.add(row.name, self.losses[..., r][self.learnt[..., r]])
        if self.ctc is not None and self.n_units:
            streams.add(self.rows[1].name, self.ctc, self.n_units)
        return streams

    def by_document(self, documents: Tensor) -> Tensor:
        """Sums of unweighted losses `[B, n_documents, R]` over the documents `[B, S]` of each packed row, as in `Batch`."""
        n_documents = int(documents.max()) + 1 if documents.numel() else 0
        index = documents.clamp(min=0)[..., None].expand(self.losses.shape)
        summed = self.losses.new_zeros((len(documents), n_documents, self.losses.shape[-1]))
        return summed.scatter_add(1, index, self.losses)
