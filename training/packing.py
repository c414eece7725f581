"""Packing: many short sequences in one row of fixed length, with no attention and no loss across their borders."""

import bisect
from collections.abc import Mapping
from collections.abc import Sequence as Sized
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from schemas.errors import UserError
from training.layouts.base import IGNORE, NOTHING, Row, Sequence

PADDING = -1
"""Document id of positions that hold nothing."""


@dataclass(frozen=True)
class Piece:
    """Positions `start..end` of a sequence: a document of a packed row, or as many as the sequence has there."""

    sequence: Sequence
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def audio_s(self) -> float:
        """The piece's share of the sequence's sound."""
        return self.sequence.audio_s * len(self) / len(self.sequence.inputs)


@dataclass
class Batch:
    """B packed rows of S positions, R ids each.

    Attributes:
        inputs, labels: int64 `[B, S, R]`. weights: float32 `[B, S, R]`.
        documents: int64 `[B, S]`, counted from 0 in each row, PADDING where there is none.
        positions: int64 `[B, S]`, from 0 in each document.
        ids: of the corpus rows in it. audio_s: seconds of sound in it.
        latents, latent_labels: float32 `[B, S, d]`, NaN where there is none; None in layouts without latents.
        latent_noise: float32 `[B, S, d]`, deviation of each latent, as in a Sequence; None where it is 0.
        seeds: int64 `[B]`, of what is drawn at random for a row.
        norms: sums of the weights of the text labels and of the speech labels, and the number of latent labels, by which the
            summed losses are divided, and the number of units to be learnt by CTC: those of the whole batch also in a part of it.
            None: of this batch.
        ctc: of each document whose units are learnt by CTC: its packed row, its number in it, and its units, int64 `[U]`.
    """

    inputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    documents: np.ndarray
    positions: np.ndarray
    ids: list[str]
    audio_s: float
    latents: np.ndarray | None = None
    latent_labels: np.ndarray | None = None
    latent_noise: np.ndarray | None = None
    seeds: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    norms: tuple[float, float, float, float] | None = None
    ctc: list[tuple[int, int, np.ndarray]] = field(default_factory=list)

    def loss(self, model: Any) -> Any:
        """What to learn from this batch, in the place of its labels as they stand: `HybridLM.loss`'s answer, or None, as here."""
        return None

    @property
    def n_positions(self) -> int:
        """Positions that hold something."""
        return int((self.documents != PADDING).sum())

    @property
    def n_latents(self) -> int:
        """Latents that are learnt."""
        return 0 if self.latent_labels is None else int((~np.isnan(self.latent_labels[..., 0])).sum())

    @property
    def n_units(self) -> int:
        """Units that are learnt by CTC."""
        return sum(len(units) for _, _, units in self.ctc)

    def sums(self) -> tuple[float, float, float, float]:
        """What `norms` are of a whole batch."""
        learnt = self.labels != IGNORE
        weights = np.where(learnt, self.weights, 0.0).sum((0, 1), dtype=np.float64)
        return float(weights[0]), float(weights[1:].sum()), float(self.n_latents), float(self.n_units)

    def share(self, part: int, parts: int) -> "Batch":
        """Every `parts`-th row from `part`, with the norms of the whole; all parts have as many rows, empty ones if need be.

        `ids` and `audio_s` stay those of the whole.
        """
        n = -(-len(self.inputs) // parts)

        def own(values: np.ndarray, nothing: float) -> np.ndarray:
            taken = values[part::parts]
            more = np.full((n - len(taken), *values.shape[1:]), nothing, dtype=values.dtype)
            return np.concatenate([taken, more]) if len(more) else taken

        return replace(
            self,
            inputs=own(self.inputs, NOTHING),
            labels=own(self.labels, IGNORE),
            weights=own(self.weights, 0),
            documents=own(self.documents, PADDING),
            positions=own(self.positions, 0),
            latents=None if self.latents is None else own(self.latents, np.nan),
            latent_labels=None if self.latent_labels is None else own(self.latent_labels, np.nan),
            seeds=own(self.seeds, 0),
            norms=self.norms or self.sums(),
            ctc=[(row // parts, document, units) for row, document, units in self.ctc if row % parts == part],
        )


def pieces(sequence: Sequence, seq_len: int) -> list[Piece]:
    """A sequence's documents in pieces of at most `seq_len` positions. Every label is in exactly one of them."""
    return [
        Piece(sequence, at, min(at + seq_len, end))
        for start, end in sequence.bounds
        for at in range(start, end, seq_len)
    ]


def pack(sequences: Sized[Sequence], seq_len: int) -> list[list[Piece]]:
    """Distribute sequences over rows of `seq_len` positions: longest first, each into the fullest row that takes it.

    The same sequences in the same order always give the same rows.
    """
    todo = [piece for sequence in sequences for piece in pieces(sequence, seq_len)]
    rows: list[list[Piece]] = []
    free: list[tuple[int, int]] = []  # (positions left, row), sorted
    for piece in sorted(todo, key=len, reverse=True):
        at = bisect.bisect_left(free, (len(piece), -1))
        left, row = free.pop(at) if at < len(free) else (seq_len, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(piece)
        bisect.insort(free, (left - len(piece), row))
    return rows


def collate(rows: Sized[Sized[Piece]], seq_len: int) -> Batch:
    """Packed rows as arrays, filled up to `seq_len` with nothing."""
    n_ids = rows[0][0].sequence.inputs.shape[1]
    shape = (len(rows), seq_len)
    batch = Batch(
        inputs=np.full((*shape, n_ids), NOTHING, dtype=np.int64),
        labels=np.full((*shape, n_ids), IGNORE, dtype=np.int64),
        weights=np.zeros((*shape, n_ids), dtype=np.float32),
        documents=np.full(shape, PADDING, dtype=np.int64),
        positions=np.zeros(shape, dtype=np.int64),
        ids=[piece.sequence.id for row in rows for piece in row],
        audio_s=sum(piece.audio_s for row in rows for piece in row),
        seeds=np.arange(len(rows), dtype=np.int64),
    )
    latents = next((p.sequence.latents for row in rows for p in row if p.sequence.latents is not None), None)
    if latents is not None:
        batch.latents = np.full((*shape, latents.shape[1]), np.nan, dtype=np.float32)
        batch.latent_labels = batch.latents.copy()
        if any(piece.sequence.latent_noise is not None for row in rows for piece in row):
            batch.latent_noise = np.zeros_like(batch.latents)
    for b, row in enumerate(rows):
        at = document = 0
        for piece in row:
            here, there = slice(at, at + len(piece)), slice(piece.start, piece.end)
            batch.inputs[b, here] = piece.sequence.inputs[there]
            batch.labels[b, here] = piece.sequence.labels[there]
            batch.weights[b, here] = piece.sequence.weights[there]
            places = np.arange(len(piece))
            batch.documents[b, here], batch.positions[b, here] = document, places
            if (own := piece.sequence.documents) is not None:
                batch.documents[b, here] += own[there] - own[piece.start]
                batch.positions[b, here] -= np.searchsorted(own[there], own[there])
            units = piece.sequence.ctc_targets
            # CTC takes an utterance whole: one that was cut is learnt as text.
            if units is not None and len(piece) == len(piece.sequence.inputs):
                batch.ctc.append((b, document, units))
            given, learnt = piece.sequence.latents, piece.sequence.latent_labels
            if batch.latents is not None and given is not None:
                batch.latents[b, here] = given[there]
            if batch.latent_labels is not None and learnt is not None:
                batch.latent_labels[b, here] = learnt[there]
            if batch.latent_noise is not None and (noise := piece.sequence.latent_noise) is not None:
                batch.latent_noise[b, here] = noise[there]
            at += len(piece)
            document = int(batch.documents[b, at - 1]) + 1
    return batch


def may_attend(documents: np.ndarray, causal: bool = True) -> np.ndarray:
    """Bool `[B, S, S]`: whether position i may see position j: the same document, and, if causal, not later. From `[B, S]`."""
    same: np.ndarray = documents[:, :, None] == documents[:, None, :]
    return same & np.tri(documents.shape[1], dtype=bool) if causal else same


def reweigh(batch: Batch, rows: Sized[Row], weights: Mapping[str, float]) -> Batch:
    """The batch with the weights that a run gives to streams in place of the layout's (`LossOptions.streams`).

    Raises UserError for a stream that the layout does not have.
    """
    if not weights:
        return batch
    names = {row.name: r for r, row in enumerate(rows)} | ({"first": 1} if len(rows) > 1 else {})
    unknown = sorted(set(weights) - set(names) - {"pad"})
    if unknown:
        raise UserError(
            f"train.loss.streams: the layout has no stream {', '.join(unknown)}, but {', '.join(names)}, pad"
        )
    found = batch.weights.copy()
    for name, weight in sorted(weights.items(), key=lambda item: item[0] == "pad"):
        if name == "pad":
            pads = [rows[0].special(s) for s in ("pad", "epad") if s in rows[0].specials]
            found[..., 0][np.isin(batch.labels[..., 0], pads)] = weight
        else:
            found[..., names[name]] = weight
    batch.weights = found
    return batch


def redraw(batch: Batch, random: np.random.Generator, input_noise: float = 0.0) -> Batch:
    """The batch with its latents drawn anew by their deviations, a label as the input that it is of.

    `input_noise`: deviation of what is added to inputs alone, so that a model learns to go on from what it has itself drawn,
    which is never quite right (CALM, arXiv 2509.06926). The label of a piece's last position, whose input is in another piece,
    stays the mean.
    """
    if batch.latents is None or batch.latent_labels is None:
        return batch
    if batch.latent_noise is not None:
        batch.latents = batch.latents + batch.latent_noise * random.standard_normal(batch.latents.shape, np.float32)
        own = batch.documents[:, 1:] == batch.documents[:, :-1]
        labels = batch.latent_labels[:, :-1]
        labels[...] = np.where(own[..., None] & ~np.isnan(labels), batch.latents[:, 1:], labels)
    if input_noise:
        batch.latents = batch.latents + np.float32(input_noise) * random.standard_normal(
            batch.latents.shape, np.float32
        )
    return batch


def thin(batch: Batch, first: int, share: float, random: np.random.Generator) -> Batch:
    """The batch with the labels of rows `first ..` kept at a random share of the positions, their weights raised by as much.

    CSM's amortisation: the mean loss stays what it is, and a depth transformer has fewer positions to predict.
    """
    dropped = random.random(batch.labels.shape[:2]) >= share
    batch.labels[dropped, first:] = IGNORE
    batch.weights[..., first:] = np.where(dropped[..., None], 0, batch.weights[..., first:] / share)
    return batch
