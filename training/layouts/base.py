"""The contract of a layout: a pure function from an example to a sequence of parallel ids, with its inverse.

A sequence has S positions and R rows of ids. Row 0 is text, rows 1..R-1 are speech streams. The model sums the embeddings of
a position's ids and predicts, from the positions up to and with it, the id that each row has at the next position:

    labels[p, r] is inputs[p + 1, r], or IGNORE where nothing is to be learnt there

so that a layout leaks nothing, and what is sampled can be fed back as it is.
"""

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from schemas import Tokenizer

NOTHING = -1
"""An input id that adds no embedding."""

IGNORE = -100
"""A label that is not learnt (torch's own default)."""

Draw = Callable[[int, np.ndarray], int]
"""`draw(row, allowed)`: sample one id of a row from the model's prediction for the next position, among those that `allowed`,
bool `[n_ids]`, marks. What a layout allows is what it could itself have laid out there.
"""


class Options(BaseModel):
    """A group of settings. A field's docstring is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LayoutOptions(Options):
    """What all layouts can be told."""

    text_weight: float = Field(default=0.5, ge=0)
    """Weight of the mean text loss in the total (TASLM: 0.5)."""
    speech_weight: float = Field(default=0.5, ge=0)
    """Weight of the mean speech loss in the total (TASLM: 0.5)."""


@dataclass(frozen=True)
class Row:
    """One row of ids: tokens `0..size-1`, then its specials, outside every codebook."""

    name: str
    size: int
    specials: tuple[str, ...]

    @property
    def n_ids(self) -> int:
        return self.size + len(self.specials)

    def special(self, name: str) -> int:
        """Id of a special. Raises ValueError where the row has no such one."""
        return self.size + self.specials.index(name)

    def allow(self, tokens: bool | np.ndarray, *specials: str) -> np.ndarray:
        """Bool `[n_ids]`: of the tokens all, none or those marked (bool `[size]`), and the specials of these names."""
        allowed = np.zeros(self.n_ids, dtype=bool)
        allowed[: self.size] = tokens
        allowed[[self.special(name) for name in specials]] = True
        return allowed


@dataclass(frozen=True)
class Vocabulary:
    """What a layout must know of the text ids: how many there are, and which of them begin a word or go on in one.

    Both are bool `[size]`. Ids that do neither, such as a chat template's, are in no word and are never drawn.
    """

    size: int
    starts_word: np.ndarray
    continues_word: np.ndarray

    def split(self, ids: Iterable[int]) -> list[list[int]]:
        """Text ids, without specials, grouped into words."""
        words: list[list[int]] = []
        for i in ids:
            if self.starts_word[i] or not words:
                words.append([])
            words[-1].append(int(i))
        return words


@dataclass
class Example:
    """What a layout lays out.

    Attributes:
        words: text ids of each of the W words. starts_s: float `[W]`, seconds from the start of the utterance.
        codes: int64 `[W, R]` for a word-aligned stream, else `[K, T]`.
        id: of the row it was made from. audio_s: its length in seconds.
    """

    words: list[list[int]]
    starts_s: np.ndarray
    codes: np.ndarray
    id: str = ""
    audio_s: float = 0.0


@dataclass
class Sequence:
    """An example, laid out.

    Attributes:
        inputs: int64 `[S, R]`, NOTHING where a row adds no embedding. labels: int64 `[S, R]`, IGNORE where nothing is learnt.
        weights: float32 `[S, R]`, of each label among those of its group (text, speech).
        shifted: text tokens that come later than their word's time asks for, since the row was still busy.
        id, audio_s: the example's.
        latents, latent_labels: float32 `[S, d]`, NaN where there is none: continuous inputs, and those to be predicted.
    """

    inputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    shifted: int = 0
    id: str = ""
    audio_s: float = 0.0
    latents: np.ndarray | None = None
    latent_labels: np.ndarray | None = None


class Layout(abc.ABC):
    """One way to lay out an example. Pure: neither draws random numbers nor keeps state.

    Attributes of the class: `name`, its name in the config; `kind` and `column`, the token stream it needs.
    Attributes of an instance: `rows`, text first.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    column: ClassVar[str]
    rows: tuple[Row, ...]

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, card: Tokenizer) -> None:
        self.options = options
        self.vocabulary = vocabulary
        self.card = card

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `schemas.record` that it reads."""
        return ("id", "duration_s", "words", self.column)

    def example(self, row: dict[str, Any], encode: Callable[[list[str]], list[list[int]]]) -> Example:
        """The example in a row of the reader. Raises ValueError, naming the row, where its stream is missing."""
        if row[self.column] is None:
            raise ValueError(f"row {row['id']} has no {self.column}, which layout {self.name} needs")
        words = row["words"] or []
        starts_s = np.asarray([word["start_s"] for word in words], dtype=np.float64)
        return Example(
            encode([word["text"] for word in words]), starts_s, row[self.column], row["id"], float(row["duration_s"])
        )

    @abc.abstractmethod
    def no_codes(self) -> np.ndarray:
        """The codes of an example without speech."""

    @abc.abstractmethod
    def apply(self, example: Example) -> Sequence:
        """Lay an example out. Raises ValueError, naming it, where its parts do not fit together."""

    @abc.abstractmethod
    def undo(self, inputs: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
        """The words' text ids and the codes in inputs `[S, R]`: the inverse of `apply`, for sampled inputs too."""

    @abc.abstractmethod
    def prompt(self, example: Example, max_s: float) -> "Prompt":
        """The beginning of a sequence to be sampled: words, codes or both, and how many seconds it may last in all."""


class Prompt(abc.ABC):
    """The state of one sequence while it is sampled: what is given is forced, the rest is drawn."""

    @abc.abstractmethod
    def next(self, draw: Draw) -> np.ndarray | None:
        """The next position's ids `[R]`, or None when the sequence has ended. `draw` is not called for what is given."""


def finish(inputs: np.ndarray, learnt: np.ndarray, weights: np.ndarray, shifted: int, example: Example) -> Sequence:
    """A Sequence whose labels are the next position's inputs where `learnt` (bool `[S, R]`, by input position) says so."""
    labels = np.full_like(inputs, IGNORE)
    labels[:-1] = np.where(learnt[1:], inputs[1:], IGNORE)
    moved = np.zeros(inputs.shape, dtype=np.float32)
    moved[:-1] = np.where(learnt[1:], weights[1:], 0.0)
    return Sequence(inputs, labels, moved, shifted, example.id, example.audio_s)
