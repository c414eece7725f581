"""Direct preference optimisation (DPO, Rafailov et al. 2023, arXiv 2305.18290) over pairs of continuations of one prompt.

    loss = -log sigmoid(beta ((log p(chosen) - log q(chosen)) - (log p(rejected) - log q(rejected))))

with p the model in training and q the frozen reference, the policy that the pairs were sampled from. Log-probabilities are sums
over the ids that the policy drew, and no others: not the prompt, nor what a layout forces (slamkit and trl: over the response's
tokens). q does not change, so its sums are taken once, before the first step, and no second model is kept.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional as F

from schemas.errors import UserError
from training.layouts import Layout
from training.layouts.base import IGNORE, NOTHING
from training.layouts.base import Sequence as Laid
from training.loader import Loader, Position
from training.losses import StreamLosses
from training.model import HybridLM
from training.packing import PADDING, Batch, Piece, collate


@dataclass(frozen=True)
class Preference:
    """Two sequences that begin alike; labels stand only where an id was drawn."""

    id: str
    chosen: Laid
    rejected: Laid


class PairLosses(StreamLosses):
    """What the log says of pairs in the place of streams."""

    def by_stream(self) -> StreamLosses:
        """Itself, as a model's losses give their streams."""
        return self


@dataclass(frozen=True)
class Terms:
    """Of a batch of P pairs: the loss, and without gradients the rewards `[P]` of both sides, beta (log p - log q)."""

    loss: Tensor
    chosen: Tensor
    rejected: Tensor

    def by_stream(self, there: Tensor) -> "PairLosses":
        """Sums over the pairs that `there`, bool `[P]`, marks, under names of their own, for the log."""
        streams = PairLosses()
        for name, values in self.by_pair().items():
            streams.add(name, values[there])
        return streams

    def by_pair(self) -> dict[str, Tensor]:
        """`[P]` each: the reward margin, 1 where it is above 0, and both rewards."""
        margins = self.chosen - self.rejected
        return {
            "margin": margins,
            "accuracy": (margins > 0).double(),
            "chosen": self.chosen,
            "rejected": self.rejected,
        }


def dpo(policy: Tensor, reference: Tensor, beta: float, shares: Tensor | None = None) -> Terms:
    """Log-probabilities `[P, 2]`, chosen then rejected, of the model in training and of the reference.

    `shares`: `[P]`, of the pairs in the loss; None for the mean over them.
    """
    rewards = beta * (policy - reference)
    losses = -F.logsigmoid(rewards[:, 0] - rewards[:, 1])
    return Terms(losses.mean() if shares is None else (losses * shares).sum(), *rewards.detach().unbind(1))


def response(inputs: np.ndarray, drawn: np.ndarray, name: str) -> Laid:
    """A sampled sequence, `[S, R]` both, with the labels of what was drawn."""
    labels = np.full(inputs.shape, IGNORE, dtype=np.int64)
    labels[:-1] = np.where(drawn[1:], inputs[1:], IGNORE)
    return Laid(inputs, labels, (labels != IGNORE).astype(np.float32), id=name)


def read_preferences(path: Path, layout: Layout) -> list[Preference]:
    """The pairs of a preferences.parquet, in its order. Raises UserError where they are of another layout, or there is none."""
    try:
        rows = pq.read_table(path, columns=["prompt", "chosen", "rejected"], use_threads=False).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no preferences of `antiphon preferences`: {error}") from None
    found = []
    for row in rows:
        sides = []
        for side in ("chosen", "rejected"):
            inputs = np.asarray(row[side]["inputs"], dtype=np.int64)
            drawn = np.asarray(row[side]["drawn"], dtype=bool)
            bounds = [r.n_ids for r in layout.rows]
            if (
                inputs.ndim != 2
                or inputs.shape != drawn.shape
                or inputs.shape[1] != len(bounds)
                or (inputs >= bounds).any()
            ):
                raise UserError(f"{path}: pair {row['prompt']['id']} is no sequence of layout {layout.name}")
            sides.append(response(inputs, drawn, row["prompt"]["id"]))
        found.append(Preference(row["prompt"]["id"], *sides))
    if not found:
        raise UserError(f"{path}: no pair in here; lower the margins of `antiphon preferences`")
    return found


@dataclass(kw_only=True)
class PairBatch(Batch):
    """2 P rows of one document each, chosen and rejected in turn.

    Attributes:
        reference: float64 `[P, 2]`, the log-probabilities under q. beta: of the loss.
        shares: float64 `[P]`, of each pair in the loss: 1 over the pairs of the whole batch; 0 for what only fills up a part.
    """

    reference: np.ndarray
    beta: float
    shares: np.ndarray

    def loss(self, model: HybridLM) -> tuple[Tensor, "PairLosses"]:
        """The loss of DPO, and of each pair the reward margin, whether it is above 0, and both rewards, as streams."""
        policy = log_probs(model, self)
        shares = torch.from_numpy(self.shares).to(policy)
        terms = dpo(policy, torch.from_numpy(self.reference).to(policy), self.beta, shares)
        return terms.loss, terms.by_stream(shares > 0)

    def share(self, part: int, parts: int) -> "PairBatch":
        """Every `parts`-th pair from `part`; all parts have as many pairs, empty ones if need be, and their losses sum up to the
        whole's.
        """
        n_pairs = len(self.reference)
        own = np.arange(part, n_pairs, parts)
        n = -(-n_pairs // parts)
        rows = np.stack([2 * own, 2 * own + 1], axis=1).ravel()

        def fill(values: np.ndarray, at: np.ndarray, nothing: float, length: int) -> np.ndarray:
            more = np.full((length - len(at), *values.shape[1:]), nothing, dtype=values.dtype)
            return np.concatenate([values[at], more])

        return replace(
            self,
            inputs=fill(self.inputs, rows, NOTHING, 2 * n),
            labels=fill(self.labels, rows, IGNORE, 2 * n),
            weights=fill(self.weights, rows, 0, 2 * n),
            documents=fill(self.documents, rows, PADDING, 2 * n),
            positions=fill(self.positions, rows, 0, 2 * n),
            reference=fill(self.reference, own, 0, n),
            shares=fill(self.shares, own, 0, n),
        )


def pair_batch(pairs: Sequence[Preference], reference: np.ndarray, beta: float = 0.1) -> PairBatch:
    """Pairs side by side, filled up to the longest. `reference`: `[P, 2]`."""
    sequences = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    longest = max(len(s.inputs) for s in sequences)
    batch = collate([[Piece(s, 0, len(s.inputs))] for s in sequences], longest)
    shares = np.full(len(pairs), 1 / len(pairs))
    return PairBatch(**vars(batch), reference=reference, beta=beta, shares=shares)


def log_probs(model: HybridLM, batch: Batch) -> Tensor:
    """Sums of the labels' log-probabilities, one a row: `[P, 2]` of 2 P rows."""
    found = model.label_losses(batch)
    return -(found.losses * found.learnt).sum((1, 2)).reshape(-1, 2)


@torch.no_grad()
def reference_log_probs(model: HybridLM, pairs: Sequence[Preference]) -> np.ndarray:
    """The log-probabilities `[n, 2]` under the model as it is now, without dropout; one pair at a time."""
    was_training = model.training
    model.eval()
    found = [log_probs(model, pair_batch([pair], np.zeros((1, 2)))).double().cpu().numpy() for pair in pairs]
    model.train(was_training)
    return np.concatenate(found)


class PairLoader(Loader):
    """Batches of pairs in an order that depends on the seed and the position alone; a share of the prompts is held out.

    A pass over the data shuffles all pairs. `Position.pool` is not used. To the training loop it is a `Loader` like others.
    """

    def __init__(
        self,
        pairs: Sequence[Preference],
        reference: np.ndarray,
        pairs_per_batch: int,
        seed: int,
        beta: float = 0.1,
        heldout_share: float = 0.0,
    ) -> None:
        """`reference`: of `reference_log_probs`. Raises UserError where nothing is left to train on."""
        self.corpora = []
        kept_out = [_share(pair.id) < heldout_share for pair in pairs]
        self._all = [(pair, row) for pair, row in zip(pairs, reference, strict=True)]
        self.train_pairs = [item for item, out in zip(self._all, kept_out, strict=True) if not out]
        self.heldout_pairs = [item for item, out in zip(self._all, kept_out, strict=True) if out]
        self.pairs_per_batch, self.batch_rows = pairs_per_batch, 2 * pairs_per_batch
        self.seq_len = max(len(side.inputs) for pair in pairs for side in (pair.chosen, pair.rejected))
        self.seed, self.beta = seed, beta
        self.n_text = self.n_shifted = 0
        if not self.train_pairs:
            raise UserError(f"all of {len(pairs)} pairs are held out: lower heldout_share")

    def _batch(self, items: Sequence[tuple[Preference, np.ndarray]]) -> PairBatch:
        return pair_batch([pair for pair, _ in items], np.stack([row for _, row in items]), self.beta)

    def heldout(self) -> Iterator[PairBatch]:
        """All held-out pairs, once, always in the same batches."""
        n = self.pairs_per_batch
        for i in range(0, len(self.heldout_pairs), n):
            yield self._batch(self.heldout_pairs[i : i + n])

    def train(self, position: Position) -> Iterator[tuple[PairBatch, Position]]:
        """Batches without end from `position`, each with the position after it."""
        epoch, batch, n = position.epoch, position.batch, self.pairs_per_batch
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train_pairs))
            for i in range(batch * n, len(order), n):
                batch += 1
                yield self._batch([self.train_pairs[j] for j in order[i : i + n]]), Position(epoch, 0, batch)
            epoch, batch = epoch + 1, 0


def _share(name: str) -> float:
    """A number from 0 to 1 that follows from a name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
