"""Layouts of units on merged units: another layout, with BPE of its units before it and the units back behind it.

    units        12 7 33 33 5 90        merges 12 7 -> 501, 33 5 -> 502
    laid out     BOS 501 502 90 EOS     where repeats are dropped; one unit a frame: BOS 501 33 502 90 EOS

So no layout knows of merges, and what comes back from all of them is units.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from schemas import Tokenizer
from schemas.errors import UserError
from training.bpe import UnitBPE
from training.layouts.base import Example, Layout, Parts, Prompt, Sequence, Vocabulary
from training.layouts.spans import word_borders
from training.layouts.units import UnitLayout, UnitLayoutOptions


class MergedLayout(Layout):
    """A layout whose row of units holds tokens of a `UnitBPE`. `inner`: the layout of those tokens."""

    kinds = ("units",)

    def __init__(self, inner: UnitLayout, bpe: UnitBPE, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(inner.options, vocabulary, cards)
        self.inner, self.bpe = inner, bpe
        self.rows, self.upsample = inner.rows, inner.upsample

    def merge(self, example: Example) -> Example:
        """The example with tokens as its units, and how many frames each lasts as their run lengths."""
        turns = [self.merge(turn) for turn in example.turns]
        if turns:
            units = np.concatenate([turn.units for turn in turns])
            return replace(
                example, units=units, run_lengths=np.concatenate([t.run_lengths for t in turns]), turns=turns
            )
        ends: list[int] = []
        if self.bpe.inside_words:
            ends = word_borders(example.starts_s, example.ends_s, example.run_lengths, self.card.rate_hz).tolist()
        tokens = self.bpe.encode(example.units, example.run_lengths, ends)
        return replace(example, units=tokens.ids, run_lengths=tokens.durations)

    def units_of(self, ids: np.ndarray) -> np.ndarray:
        return self.bpe.units(ids)

    def _parts(self, parts: Parts) -> Parts:
        return parts._replace(units=self.units_of(parts.units))

    def apply(self, example: Example) -> Sequence:
        return self.inner.apply(self.merge(example))

    def undo(self, inputs: np.ndarray) -> Parts:
        return self._parts(self.inner.undo(inputs))

    def kept(self, example: Example) -> Parts:
        return self._parts(self.inner.kept(self.merge(example)))

    def prompt(self, example: Example, max_s: float) -> Prompt:
        return self.inner.prompt(self.merge(example), max_s)

    def text_only(self, words: list[list[int]], id: str = "") -> Sequence:
        return self.inner.text_only(words, id)

    def no_codes(self) -> np.ndarray:
        return self.inner.no_codes()

    @property
    def columns(self) -> tuple[str, ...]:
        return self.inner.columns

    def example(self, row: dict[str, Any], encode: Callable[[list[str]], list[list[int]]]) -> Example:
        return self.inner.example(row, encode)

    def examples(
        self, rows: Iterable[dict[str, Any]], encode: Callable[[list[str]], list[list[int]]]
    ) -> Iterator[Example]:
        return self.inner.examples(rows, encode)


def merged(
    layout: type[UnitLayout], options: UnitLayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]
) -> MergedLayout:
    """A layout on the merges that its options name.

    Raises UserError where they are of other units, of units with repeats where the layout drops these or the other way round, or
    across words where the layout switches at words.
    """
    assert options.bpe
    bpe, card = UnitBPE.load(Path(options.bpe)), cards["units"]
    if (bpe.n_units, bpe.revision) != (card.sizes[0], card.revision):
        raise UserError(
            f"{options.bpe} merges {bpe.n_units} units of revision {bpe.revision[:12]}, and the corpus has {card.sizes[0]} of "
            f"{card.name} revision {card.revision[:12]}: fit it on this corpus with `antiphon fit bpe`"
        )
    if bpe.deduplicated != options.deduplicate:
        there, wanted = (("without repeats", "one a frame"), ("one a frame", "without repeats"))[options.deduplicate]
        raise UserError(
            f"{options.bpe} merges units {there}, and layout {options.name} has deduplicate: {str(options.deduplicate).lower()}: "
            f"fit merges of units {wanted}, `antiphon fit bpe ... --set deduplicate={str(options.deduplicate).lower()}`"
        )
    # Tokens stand once, however many frames they last: where these are units of each frame, they say so themselves.
    once = options.model_copy(update={"deduplicate": True})
    inner = layout(once, vocabulary, {**cards, "units": replace(card, sizes=(bpe.size,))})
    inner.frames_per_unit = bpe.frames_per_token
    if inner.at_words and not bpe.inside_words:
        raise UserError(
            f"{options.bpe} merges units across words, and layout {options.name} switches between words: fit merges that stop at "
            "their ends, `antiphon fit bpe ... --set inside_words=true`"
        )
    return MergedLayout(inner, bpe, vocabulary, cards)
