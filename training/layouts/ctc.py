"""LLaMA-Omni (arXiv 2409.06666): the LM writes text, and units are read off its states by CTC, all at once.

A position's state is copied `upsample` times, and each copy predicts a unit or blank; repeats are merged and blanks removed:

    states h1 h2, upsample 5 -> h1 h1 h1 h1 h1 h2 h2 h2 h2 h2 -> 7 7 _ 9 9 _ 4 4 _ _ -> units 7 9 4

So the sequence is text alone, and the units are its `ctc_targets`. Blank is a special of the units' row, whose head predicts them
from what a decoder makes of the copies (training/ctc.py).
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Tokenizer
from training.layouts.base import Example, Parts, Script, Sequence, Vocabulary
from training.layouts.units import UnitLayout, UnitLayoutOptions


class CtcLayoutOptions(UnitLayoutOptions):
    """Text, and its units as targets of CTC on the text's states (LLaMA-Omni)."""

    name: Literal["llama-omni"] = "llama-omni"
    """Which layout this is."""
    upsample: int = Field(default=25, ge=1)
    """Copies of each state."""


def upsampled(n: int, factor: int) -> np.ndarray:
    """Int64 `[n * factor]`: which of `n` states each copy is of."""
    return np.repeat(np.arange(n), factor)


def collapse(path: np.ndarray, blank: int) -> np.ndarray:
    """The units of a CTC path `[T]`: neighbours that are equal are one, and blanks none."""
    first = np.ones(len(path), dtype=bool)
    first[1:] = path[1:] != path[:-1]
    units: np.ndarray = path[first & (path != blank)]
    return units


def states_needed(units: np.ndarray) -> int:
    """Copies without which CTC cannot say `units` `[U]`: one each, and a blank between two that are equal."""
    return len(units) + int((units[1:] == units[:-1]).sum())


class CtcLayout(UnitLayout):
    """BOS, the words, EOS. A row with more units than its words have room for keeps its text, and has no targets: `dropped`."""

    specials = (("bos", "eos"), ("blank",))
    options: CtcLayoutOptions

    def __init__(self, options: CtcLayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        self.upsample = options.upsample

    def targets(self, example: Example) -> np.ndarray | None:
        """The units, or None where the states of the words are too few for them."""
        units = self.units(example)
        n_states = sum(map(len, example.words)) * self.options.upsample
        return units if states_needed(units) <= n_states else None

    def apply(self, example: Example) -> Sequence:
        targets = self.targets(example)
        laid = self.text_stream(example).sequence(example, dropped=len(self.units(example)) if targets is None else 0)
        laid.ctc_targets = targets
        return laid

    def kept(self, example: Example) -> Parts:
        """The words: units are no inputs."""
        return Parts(example.words, self.no_codes())

    def prompt(self, example: Example, max_s: float) -> Script:
        """Text is continued; what it sounds like is read off the states when it has ended."""
        return self.text_prompt(example, max_s)
