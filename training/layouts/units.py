"""What the layouts have in common that hold units, text and units in one stream."""

from collections.abc import Iterator, Mapping

import numpy as np

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts.base import Example, LayoutOptions, Parts, Script, Vocabulary
from training.layouts.stream import StreamLayout

UNITS_PER_FRAME = 0.7
"""Units without repeats for each frame: 1,745 of 2,512 frames at 50 Hz, in eight clips of LJSpeech, begin a run."""


class UnitLayoutOptions(LayoutOptions):
    """What all layouts of units can be told."""

    deduplicate: bool = True
    """Each unit once however long it lasts, as HuBERT's users do; false: one unit a frame."""
    bpe: str | None = None
    """A file of `antiphon fit bpe`: the units are merged into its tokens, and chunks and the like count these. Null: as they
    are. Checkpoints hold the merges."""


class UnitLayout(StreamLayout):
    """Text in row 0, units in row 1, never both in one position.

    Attributes:
        frames_per_unit: how many frames an id of the row of units lasts, on average.
    """

    kinds = ("units",)
    options: UnitLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        self.frames_per_unit = 1 / UNITS_PER_FRAME if self.options.deduplicate else 1.0

    def units(self, example: Example) -> np.ndarray:
        """Int64 `[U]`: the units to lay out, with or without repeats."""
        if self.options.deduplicate:
            return example.units
        return np.repeat(example.units, example.run_lengths)

    @property
    def at_words(self) -> bool:
        """Whether it goes from units to something else between two words, so that no id may be of both."""
        return False

    def kept(self, example: Example) -> Parts:
        return Parts(example.words, self.no_codes(), self.units(example))

    def max_units(self, max_s: float) -> int:
        """Units in so many seconds."""
        return max(1, round(max_s * self.card.rate_hz / self.frames_per_unit))

    def say(self, script: Script, given: np.ndarray, max_s: float, end: str) -> Iterator[np.ndarray]:
        """Positions of units: those given, and then drawn ones up to the special `end`."""
        yield from self.force(1, given)
        yield from self.go_on(script, 1, max(0, self.max_units(max_s) - len(given)), end)

    def heard(self, example: Example) -> int:
        """How many of a prompt's words come with sound. The further ones have no time."""
        return int(np.isfinite(example.starts_s).sum())

    def refuse_new_words(self, example: Example) -> None:
        """Raise UserError where a prompt has words to say, and the layout says none."""
        if self.heard(example) < len(example.words):
            raise UserError(f"layout {self.name} holds no text: give it speech to go on from, and no words")
