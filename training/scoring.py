"""Log-likelihoods of whole sequences by stream, and how often the good side of a pair has the higher one.

The protocol is that of slamkit's and SALMon's metrics: the higher log-likelihood wins, a tie counts half. What is compared is
said by `Scoring`: a mean over labels and a sum rank pairs of unequal length differently, and so do the streams.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from schemas.errors import UserError
from training.checkpoint import Checkpoint
from training.layouts import Layout
from training.layouts.base import IGNORE
from training.layouts.base import Sequence as Laid
from training.model import HybridLM
from training.packing import Batch, Piece, collate


@dataclass(frozen=True)
class Scoring:
    """What of a sequence's labels is scored.

    Attributes:
        how: the mean over the scored labels, or their sum.
        specials: count labels outside the token ids too (PAD, EPAD, EOS: when something is said, and where it ends).
        restrict: a token's probability among its row's tokens alone; otherwise among all the row's ids.
    """

    how: Literal["mean", "sum"] = "mean"
    specials: bool = False
    restrict: bool = True


@dataclass(frozen=True)
class Stream:
    """Of one row of a sequence: the sum of its labels' log-probabilities in nats, and how many they are."""

    total: float = 0.0
    labels: int = 0

    def __add__(self, other: "Stream") -> "Stream":
        return Stream(self.total + other.total, self.labels + other.labels)

    def __sub__(self, other: "Stream") -> "Stream":
        return Stream(self.total - other.total, self.labels - other.labels)


Streams = dict[str, Stream]
"""By the name of the layout's row."""


def label_log_probs(model: HybridLM, batch: Batch, restrict: bool) -> Tensor:
    """The log-probability of each label, float64 `[B, S, R]`; 0 where there is none.

    With `restrict`, of a token among its row's tokens; of a special, which is none of them, among all ids as ever, and so of rows
    that a depth transformer predicts.
    """
    hidden = model.batch_hidden(batch)
    labels = torch.from_numpy(batch.labels).to(hidden.device)
    found = torch.zeros(labels.shape, dtype=torch.float64, device=hidden.device)
    speech = model.speech_logits(hidden)
    # Rows that are predicted from the others of their position have no single distribution: their labels' losses are all there is.
    losses = model.label_losses(batch).losses if 1 + len(speech) < len(model.rows) else None
    for r, row in enumerate(model.rows):
        there = labels[..., r] != IGNORE
        if not there.any():
            continue
        if r > len(speech):
            assert losses is not None
            found[..., r][there] = -losses[..., r][there].double()
            continue
        target = labels[..., r][there]
        logits = model.text_log_probs(hidden[there]) if r == 0 else speech[r - 1][there]
        scores = logits.float().log_softmax(-1)
        picked = scores.gather(-1, target[:, None])[:, 0]
        if restrict:
            picked = picked - scores[:, : row.size].logsumexp(-1).where(target < row.size, 0.0)
        found[..., r][there] = picked.double()
    return found


@torch.no_grad()
def score_sequences(
    checkpoint: Checkpoint, sequences: Sequence[Laid], scoring: Scoring, tokens: int = 1024
) -> list[Streams]:
    """The streams of each sequence, in order. Each is scored whole and by itself, `tokens` positions in a batch.

    Sequences that are equal to the bit are scored once, so that they tie. Units that are read off by CTC have the probability of
    all their paths together, among which blanks are no choice to leave out: `restrict` changes nothing there.
    """
    model = checkpoint.model
    was_training = model.training
    model.eval()
    keys = [_key(s) for s in sequences]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    nothing = {row.name: Stream() for row in model.rows}
    found = {key: nothing for key, i in first.items() if not len(sequences[i].inputs)}
    order = sorted((i for i in first.values() if len(sequences[i].inputs)), key=lambda i: (len(sequences[i].inputs), i))
    while order:
        longest = len(sequences[order[-1]].inputs)
        group = [order.pop() for _ in range(min(len(order), max(1, tokens // longest)))]
        rows = [[Piece(sequences[i], 0, len(sequences[i].inputs))] for i in group]
        batch = collate(rows, longest)
        log_probs = label_log_probs(model, batch, scoring.restrict).cpu().numpy()
        for b, i in enumerate(group):
            found[keys[i]] = _streams(model, log_probs[b], batch.labels[b], scoring.specials)
        if batch.ctc:
            losses = model.label_losses(batch).ctc
            assert losses is not None
            for (b, _, units), loss in zip(batch.ctc, losses.tolist(), strict=True):
                found[keys[group[b]]][model.rows[1].name] = Stream(-loss, len(units))
    model.train(was_training)
    return [found[key] for key in keys]


def _key(sequence: Laid) -> bytes:
    """The same for sequences that are equal to the bit."""
    units = sequence.ctc_targets
    digest = hashlib.sha256(sequence.inputs.tobytes() + sequence.labels.tobytes())
    digest.update(b"" if units is None else b"units" + units.astype(np.int64).tobytes())
    return digest.digest()


def _streams(model: HybridLM, log_probs: np.ndarray, labels: np.ndarray, specials: bool) -> Streams:
    """Sums by row of one sequence's `[S, R]`."""
    streams = {}
    for r, row in enumerate(model.rows):
        counted = (labels[:, r] != IGNORE) & (specials | (labels[:, r] < row.size))
        streams[row.name] = Stream(float(log_probs[counted, r].sum()), int(counted.sum()))
    return streams


def lay(checkpoint: Checkpoint, row: dict[str, Any]) -> Laid:
    """A row of the reader, laid out. Raises UserError, naming it, where the layout cannot."""
    if checkpoint.layout.latent_dim:
        raise UserError(f"layout {checkpoint.layout.name}: continuous latents have no probability by which to compare")
    try:
        (example,) = checkpoint.layout.examples([row], checkpoint.text.encode)
        return checkpoint.layout.apply(example)
    except ValueError as error:
        raise UserError(f"layout {checkpoint.layout.name}: {error}") from None


def with_words(row: dict[str, Any], words: Iterable[str], at_s: float) -> dict[str, Any]:
    """A row that says `words` at `at_s` instead of its own."""
    return row | {"words": [{"text": word, "start_s": at_s, "end_s": at_s} for word in words]}


def lay_text(checkpoint: Checkpoint, words: Sequence[str], name: str) -> Laid:
    """A text without sound, laid out as the layout lays out text-only batches."""
    return checkpoint.layout.text_only(checkpoint.text.encode(words), name)


def choose(layout: Layout, wanted: Sequence[str]) -> tuple[str, ...]:
    """Row names that `wanted` means: names, or text, speech (all other rows), first (of those), joint (all).

    Raises UserError for a name that the layout does not have.
    """
    names = [row.name for row in layout.rows]
    groups = {"text": names[:1], "speech": names[1:], "first": names[1:2], "joint": names}
    unknown = sorted(set(wanted) - set(names) - set(groups))
    meant = {name for one in wanted for name in groups.get(one, [one])}
    if unknown or not meant:
        raise UserError(
            f"streams: no {', '.join(unknown or wanted) or 'name given'}; layout {layout.name} has {', '.join(names)}, "
            "and there are speech, first and joint"
        )
    return tuple(name for name in names if name in meant)


def value(streams: Streams, names: Iterable[str], how: Literal["mean", "sum"]) -> float | None:
    """The log-likelihood to compare; None where none of the streams has a label."""
    whole = sum((streams[name] for name in names), Stream())
    if not whole.labels:
        return None
    return whole.total / whole.labels if how == "mean" else whole.total


def win(good: float, bad: float) -> float:
    """1 where the good side is the likelier, 0 where the bad one is, 0.5 for a tie."""
    return 0.5 if good == bad else float(good > bad)


@dataclass(frozen=True)
class Accuracy:
    """A share of pairs won, its 95 % interval, over how many items and pairs, and how many of the pairs tied."""

    accuracy: float
    low: float
    high: float
    items: int
    pairs: int
    ties: int


def accuracy(wins: Sequence[float], items: Sequence[str]) -> Accuracy:
    """The mean over items of each item's mean. Pairs of one item (a word in several voices) are no independent trials."""
    by_item = defaultdict(list)
    for won, item in zip(wins, items, strict=True):
        by_item[item].append(won)
    means = [sum(won) / len(won) for won in by_item.values()]
    share = sum(means) / len(means)
    return Accuracy(share, *wilson(share, len(means)), len(means), len(wins), sum(won == 0.5 for won in wins))


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `n` trials (Wilson 1927, JASA 22). With halves among them it is a little too wide."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
