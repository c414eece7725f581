"""Rows to batches, in an order that depends on the seed and the position alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts import Layout
from training.layouts.base import Sequence as Laid
from training.options import TrainOptions
from training.packing import Batch, Piece, collate, pack, redraw, reweigh, thin
from training.reader import Corpus, CorpusError, Shard, differing
from training.text import Text


@dataclass(frozen=True)
class Position:
    """The next batch: in which pass over the data, which pool of shards, and which batch of the pool."""

    epoch: int = 0
    pool: int = 0
    batch: int = 0


def open_corpora(paths: Sequence[str | Path], options: TrainOptions) -> tuple[list[Corpus], dict[str, Tokenizer]]:
    """The corpora and the cards they share. Raises CorpusError where their tokenizers differ."""
    corpora = [Corpus(path, options.damaged) for path in paths]
    for corpus in corpora[1:]:
        difference = differing(corpora[0].cards, corpus.cards)
        if difference:
            raise CorpusError(f"{corpora[0].path} and {corpus.path} differ in tokenizers: {difference}")
    return corpora, corpora[0].cards


def check_cards(layout: Layout, trained: dict[str, Tokenizer], cards: dict[str, Tokenizer], path: Path | None) -> None:
    """Raise CorpusError unless a corpus's tokens mean what they meant to the checkpoint at `path`."""
    ours, theirs = ({kind: found[kind] for kind in layout.kinds if kind in found} for found in (trained, cards))
    difference = differing(ours, theirs)
    if difference:
        raise CorpusError(
            f"{path} was trained on other tokens than the corpus holds: {difference}; prepare the corpus with that tokenizer"
        )


class Loader:
    """Batches of packed sequences from corpora.

    A pass over the data (an epoch) shuffles the shards, takes them in pools of `pool_shards`, and shuffles and packs the rows
    of a pool together. Memory is bounded by a pool, and any position is found again by reading one.

    Attributes:
        n_text, n_shifted: text tokens laid out so far, and how many of them came later than their word's time.
    """

    def __init__(self, corpora: Sequence[Corpus], layout: Layout, text: Text, options: TrainOptions) -> None:
        self.corpora = corpora
        self.layout = layout
        self.text = text
        self.seq_len = options.seq_len
        self.batch_rows = max(1, options.batch_tokens // options.seq_len)
        self.seed = options.seed
        self.pool_shards = options.pool_shards
        self._shards = [(corpus, shard) for corpus in corpora for shard in corpus.shards]
        self._weights = options.loss.resolved(options.layout).streams or {}
        self._depth = options.model.depth
        self._input_noise = options.model.latent.input_noise if options.model.latent else 0.0
        self.n_text = self.n_shifted = 0
        self._last: tuple[list[int], list[Laid]] = ([], [])

    @property
    def n_shards(self) -> int:
        return len(self._shards)

    def sequences(self, shards: Sequence[int], split: str) -> Iterator[Laid]:
        """The rows of a split in shards of these numbers, laid out."""
        return self._sequences([self._shards[i] for i in shards], split)

    def _sequences(self, shards: Sequence[tuple[Corpus, Shard]], split: str) -> Iterator[Laid]:
        for corpus, shard in shards:
            rows = corpus.rows(split, self.layout.columns, shards=[shard])
            try:
                for example in self.layout.examples(rows, self.text.encode):
                    laid = self.layout.apply(example)
                    self.n_text += sum(map(len, example.words))
                    self.n_shifted += laid.shifted
                    yield laid
            except ValueError as error:
                raise UserError(f"{shard.path}: {error}") from None

    def _collate(self, rows: Sequence[list[Piece]]) -> Batch:
        return reweigh(collate(rows, self.seq_len), self.layout.rows, self._weights)

    def heldout(self) -> Iterator[Batch]:
        """All held-out rows, once, always in the same batches."""
        n = self.batch_rows
        for i in range(0, self.n_shards, self.pool_shards):
            pool = range(i, min(i + self.pool_shards, self.n_shards))
            rows = pack(list(self.sequences(pool, "heldout")), self.seq_len)
            yield from (self._collate(rows[j : j + n]) for j in range(0, len(rows), n))

    def train(self, position: Position) -> Iterator[tuple[Batch, Position]]:
        """Training batches without end from `position`, each with the position after it.

        Raises UserError where no row is in the training split.
        """
        while True:
            pools = self._pools(position.epoch)
            empty = position == Position(position.epoch)
            for pool in range(position.pool, len(pools)):
                batches = self._pool(position.epoch, pool, pools[pool])
                for i in range(position.batch, len(batches)):
                    empty = False
                    batch = self._collate(batches[i])
                    random = np.random.default_rng([self.seed, position.epoch, pool, i])
                    batch.seeds = random.integers(2**62, size=len(batch.seeds))
                    if self._depth and self._depth.share_used < 1:
                        first = 2 if self._depth.kind == "csm" else 1
                        batch = thin(batch, first, self._depth.share_used, random)
                    yield redraw(batch, random, self._input_noise), Position(position.epoch, pool, i + 1)
                position = Position(position.epoch, pool + 1)
            if empty:
                raise self.nothing("train")
            position = Position(position.epoch + 1)

    def nothing(self, split: str) -> UserError:
        """The error for corpora without a row in a split."""
        names = ", ".join(str(corpus.path) for corpus in self.corpora)
        return UserError(
            f"{names}: no row is in the split {split!r}; splits go by recording, so more recordings are needed"
        )

    def _pools(self, epoch: int) -> list[list[int]]:
        """Indices into the shards, shuffled, in pools."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.n_shards).tolist()
        return [order[i : i + self.pool_shards] for i in range(0, len(order), self.pool_shards)]

    def _pool(self, epoch: int, pool: int, shards: list[int]) -> list[list[list[Piece]]]:
        """The batches of a pool: lists of packed rows, shuffled."""
        members = sorted(shards)
        if self._last[0] != members:
            self._last = (members, list(self.sequences(members, "train")))
        laid = self._last[1]
        random = np.random.default_rng([self.seed, epoch, pool])
        rows = pack([laid[i] for i in random.permutation(len(laid))], self.seq_len)
        rows = [rows[i] for i in random.permutation(len(rows))]
        return [rows[i : i + self.batch_rows] for i in range(0, len(rows), self.batch_rows)]
