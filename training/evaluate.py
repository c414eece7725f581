"""Held-out loss by stream."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from training.checkpoint import load
from training.distributed import ALONE, Ranks
from training.loader import Loader, check_cards, open_corpora
from training.losses import StreamLosses
from training.packing import Batch


@dataclass(frozen=True)
class StreamReport:
    """Of one stream: mean cross-entropy in nats, its exponential, and over how many labels."""

    loss: float
    perplexity: float
    labels: int


@dataclass(frozen=True)
class Report:
    """Held-out losses: by stream, the weighted total that training lowers, and over how many rows and seconds."""

    step: int
    total: float
    streams: dict[str, StreamReport]
    rows: int
    audio_s: float


@torch.no_grad()
def held_out_losses(model: nn.Module, batches: Iterable[Batch], step: int, ranks: Ranks = ALONE) -> Report | None:
    """Means over all labels of the batches; None where there is no batch. Leaves the model in the mode it was in.

    `model`: a HybridLM, or what stands for it among several processes, which each take their part of a batch's rows.
    """
    was_training = model.training
    model.eval()
    losses = StreamLosses()
    ids: set[str] = set()
    total = audio_s = 0.0
    n_positions = 0
    for batch in batches:
        loss, found = model(batch.share(ranks.rank, ranks.size) if ranks.size > 1 else batch)
        losses.update(found.by_stream())
        total += loss.item() * batch.n_positions
        n_positions += batch.n_positions
        audio_s += batch.audio_s
        ids.update(batch.ids)
    model.train(was_training)
    if not ids:
        return None
    losses = losses.summed(ranks, "cpu")
    (total,) = ranks.sum([total])
    streams = {
        name: StreamReport(mean, math.exp(min(mean, 700.0)), losses.count[name])
        for name, mean in losses.means().items()
    }
    return Report(step, total / n_positions, streams, len(ids), audio_s)


def evaluate(checkpoint: str | Path, *corpora: str | Path, device: str = "cpu") -> Report:
    """The report of a checkpoint on the held-out rows of corpora.

    Raises UserError where the corpora were made by other tokenizers than the checkpoint was trained on, or hold no held-out row.
    """
    run = load(Path(checkpoint), device)
    opened, cards = open_corpora(corpora, run.options)
    check_cards(run.layout, run.cards, cards, run.path)
    loader = Loader(opened, run.layout, run.text, run.options)
    report = held_out_losses(run.model, loader.heldout(), run.progress.step)
    if report is None:
        raise loader.nothing("heldout")
    return report


def table(report: Report) -> str:
    """A report for people, one stream a line."""
    width = max(map(len, report.streams))
    lines = [
        f"step {report.step}: {report.rows} held-out rows, {report.audio_s:.1f} s, weighted loss {report.total:.4f}",
        f"{'stream':<{width}}  {'loss':>8}  {'perplexity':>12}  {'labels':>9}  {'nats/s':>8}",
    ]
    for name, stream in report.streams.items():
        # What a second of sound costs: the figure to compare tokens of different rates and sizes by.
        per_s = stream.loss * stream.labels / report.audio_s if report.audio_s else 0.0
        lines.append(
            f"{name:<{width}}  {stream.loss:8.4f}  {stream.perplexity:12.2f}  {stream.labels:9,d}  {per_s:8.2f}"
        )
    return "\n".join(lines)
