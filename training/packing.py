"""Packing: many short sequences in one row of fixed length, with no attention and no loss across their borders."""

import bisect
from collections.abc import Sequence as Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.layouts.base import IGNORE, NOTHING, Sequence

PADDING = -1
"""Document id of positions that hold nothing."""


@dataclass(frozen=True)
class Piece:
    """Positions `start..end` of a sequence: one document of a packed row."""

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
    """

    inputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    documents: np.ndarray
    positions: np.ndarray
    ids: list[str]
    audio_s: float

    def loss(self, model: Any) -> Any:
        """What to learn from this batch, in the place of its labels as they stand: `HybridLM.loss`'s answer, or None, as here."""
        return None

    @property
    def n_positions(self) -> int:
        """Positions that hold something."""
        return int((self.documents != PADDING).sum())


def pieces(sequence: Sequence, seq_len: int) -> list[Piece]:
    """A sequence in pieces of at most `seq_len` positions. Every label is in exactly one of them."""
    n = len(sequence.inputs)
    return [Piece(sequence, start, min(start + seq_len, n)) for start in range(0, n, seq_len)]


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
    )
    for b, row in enumerate(rows):
        at = 0
        for document, piece in enumerate(row):
            here, there = slice(at, at + len(piece)), slice(piece.start, piece.end)
            batch.inputs[b, here] = piece.sequence.inputs[there]
            batch.labels[b, here] = piece.sequence.labels[there]
            batch.weights[b, here] = piece.sequence.weights[there]
            batch.documents[b, here] = document
            batch.positions[b, here] = np.arange(len(piece))
            at += len(piece)
    return batch


def may_attend(documents: np.ndarray) -> np.ndarray:
    """Bool `[B, S, S]`: whether position i may see position j: the same document, and not later. From `[B, S]`."""
    n = documents.shape[1]
    return (documents[:, :, None] == documents[:, None, :]) & np.tri(n, dtype=bool)
