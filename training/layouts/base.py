"""The contract of a layout: a pure function from an example to a sequence of parallel ids, with its inverse.

A sequence has S positions and R rows of ids. Row 0 is text, rows 1..R-1 are speech streams. The model sums the embeddings of
a position's ids and predicts, from the positions up to and with it, the id that each row has at the next position:

    labels[p, r] is inputs[p + 1, r], or IGNORE where nothing is to be learnt there

so that a layout leaks nothing, and what is sampled can be fed back as it is. A layout that is `in_place` predicts ids at their own
positions instead, from all the rest of their document, and leaves them out of the inputs.

A layout of one stream (text and units in turn) has rows too: a position holds an id of one of them and NOTHING in the others, so
that each label is predicted among the ids of its own row. What switches from one to the other is a special of the row that says
it.
"""

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas import Tokenizer
from schemas.record import STREAMS

NOTHING = -1
"""An input id that adds no embedding."""

IGNORE = -100
"""A label that is not learnt (torch's own default)."""

TEXT, SPEECH, BOTH = 0, 1, 2
"""What a position holds: ids of the text row, of speech rows, or of both."""

Draw = Callable[[int, np.ndarray], int]
"""`draw(row, allowed)`: sample one id of a row from the model's prediction for the next position, among those that `allowed`,
bool `[n_ids]`, marks. What a layout allows is what it could itself have laid out there.
"""


class Options(BaseModel):
    """A group of settings. A field's docstring is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LayoutOptions(Options):
    """What all layouts can be told."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Where several layouts share a class of options: name -> the defaults that are its own."""

    name: str
    """Which layout this is."""
    text_weight: float = Field(default=0.5, ge=0)
    """Weight of the mean text loss in the total (TASLM: 0.5)."""
    speech_weight: float = Field(default=0.5, ge=0)
    """Weight of the mean speech loss in the total (TASLM: 0.5)."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not cls.presets:
            return given
        name = given.get("name", cls.model_fields["name"].default)
        return {**cls.presets.get(str(name), {}), **given}


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
        ends_s: float `[W]`; empty where no layout that is used needs it.
        units: int64 `[U]`, no two neighbours equal. run_lengths: int64 `[U]`, frames that each lasts.
        latents, latent_variance: float `[T, d]`, continuous latents of the codec as they are stored.
        role: of the speaker, in a conversation. turns: where it is one, what was said in turn; the rest is all of it, joined.
    """

    words: list[list[int]]
    starts_s: np.ndarray
    codes: np.ndarray
    id: str = ""
    audio_s: float = 0.0
    ends_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    units: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    run_lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    role: str = ""
    turns: list["Example"] = field(default_factory=list)
    latents: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float16))
    latent_variance: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float16))


class Parts(NamedTuple):
    """What is in a sequence: the words' text ids, the codes and the units, in the shapes of an Example's."""

    words: list[list[int]]
    codes: np.ndarray
    units: np.ndarray = np.zeros(0, dtype=np.int64)


@dataclass
class Sequence:
    """An example, laid out.

    Attributes:
        inputs: int64 `[S, R]`, NOTHING where a row adds no embedding. labels: int64 `[S, R]`, IGNORE where nothing is learnt.
        weights: float32 `[S, R]`, of each label among those of its group (text, speech).
        shifted: text tokens that come later than their word's time asks for, since the row was still busy.
        id, audio_s: the example's.
        dropped: ids of the example that the layout had no room for.
        ctc_targets: int64 `[U]`, where units are to be learnt by CTC from the text positions' states (LLaMA-Omni), else None.
        latents, latent_labels: float32 `[S, d]`, NaN where there is none: continuous inputs, and those to be predicted.
        latent_noise: float32 `[S, d]`, deviation of each input, to be drawn anew whenever it is learnt from; None where it is 0.
        documents: int64 `[S]`, ascending from 0, where it is several documents, none of which sees another; else None.
    """

    inputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    shifted: int = 0
    id: str = ""
    audio_s: float = 0.0
    dropped: int = 0
    ctc_targets: np.ndarray | None = None
    latents: np.ndarray | None = None
    latent_labels: np.ndarray | None = None
    latent_noise: np.ndarray | None = None
    documents: np.ndarray | None = None

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Where each of its documents begins and ends."""
        if self.documents is None:
            return [(0, len(self.inputs))]
        edges = np.searchsorted(self.documents, np.arange(self.documents[-1] + 2)).tolist()
        return list(pairwise(edges))

    @property
    def modality(self) -> np.ndarray:
        """Int8 `[S]`: TEXT, SPEECH or BOTH, by the rows in which each position holds an id."""
        there = self.inputs != NOTHING
        text, speech = there[:, 0], there[:, 1:].any(axis=1)
        return np.where(text & speech, BOTH, np.where(speech, SPEECH, TEXT)).astype(np.int8)


class Layout(abc.ABC):
    """One way to lay out an example. Pure: neither draws random numbers nor keeps state.

    Attributes of the class: `kinds`, the token streams it needs.
    Attributes of an instance: `rows`, text first; `cards`, the streams' tokenizers.
    """

    kinds: ClassVar[tuple[str, ...]]
    text_marks: ClassVar[tuple[str, str]] = ("bos", "eos")
    """The specials of the text row before and after a text that nobody speaks."""
    rows: tuple[Row, ...]
    in_place: ClassVar[bool] = False
    """Labels stand at the positions of what they are, and each position sees all of its document."""
    n_codebooks: int = 0
    """Codebooks that it takes of an example's codes, a row of them each."""
    upsample: int = 0
    """Copies of a text token's state that a CTC decoder reads the units off; 0 where there is none."""
    latent_dim: int = 0
    """Numbers in the continuous latent of a position; 0 where there is none."""

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        self.options = options
        self.vocabulary = vocabulary
        self.cards = {kind: cards[kind] for kind in self.kinds}

    @property
    def name(self) -> str:
        """Its name in the config."""
        return self.options.name

    @property
    def kind(self) -> str:
        """The first token stream it needs; empty where it needs none."""
        return self.kinds[0] if self.kinds else ""

    @property
    def card(self) -> Tokenizer:
        """The tokenizer of the first token stream it needs."""
        return self.cards[self.kind]

    @property
    def column(self) -> str:
        """The column of the first token stream it needs; empty where it needs none."""
        return self.column_of(self.kind) if self.kinds else ""

    def column_of(self, kind: str) -> str:
        """The column that it takes of a token stream."""
        return STREAMS[kind]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `schemas.record` that it reads."""
        lengths = ("unit_run_lengths",) if "units" in self.kinds else ()
        return ("id", "duration_s", "words", *map(self.column_of, self.kinds), *lengths)

    def examples(
        self, rows: Iterable[dict[str, Any]], encode: Callable[[list[str]], list[list[int]]]
    ) -> Iterator[Example]:
        """The examples in the rows of a shard: one a row, where a layout does not put rows together."""
        return (self.example(row, encode) for row in rows)

    def example(self, row: dict[str, Any], encode: Callable[[list[str]], list[list[int]]]) -> Example:
        """The example in a row of the reader. Raises ValueError, naming the row, where a stream is missing."""
        for kind in self.kinds:
            if row[self.column_of(kind)] is None:
                raise ValueError(f"row {row['id']} has no {self.column_of(kind)}, which layout {self.name} needs")
        words = row["words"] or []
        example = Example(
            encode([word["text"] for word in words]),
            np.asarray([word["start_s"] for word in words], dtype=np.float64),
            self.no_codes(),
            row["id"],
            float(row["duration_s"]),
            np.asarray([word["end_s"] for word in words], dtype=np.float64),
        )
        for kind in self.kinds:
            if kind == "units":
                example.units, example.run_lengths = row["units"], row["unit_run_lengths"]
            else:
                example.codes = row[self.column_of(kind)]
        return example

    def no_codes(self) -> np.ndarray:
        """The codes of an example without speech."""
        return np.zeros((self.n_codebooks, 0), dtype=np.int64)

    @abc.abstractmethod
    def apply(self, example: Example) -> Sequence:
        """Lay an example out. Raises ValueError, naming it, where its parts do not fit together."""

    def text_only(self, words: list[list[int]], id: str = "") -> Sequence:
        """A text without sound, in this layout's rows: so that a model keeps its language while it learns to speak."""
        row = self.rows[0]
        ids = [
            row.special(self.text_marks[0]),
            *(token for word in words for token in word),
            row.special(self.text_marks[1]),
        ]
        inputs = np.full((len(ids), len(self.rows)), NOTHING, dtype=np.int64)
        inputs[:, 0] = ids
        learnt = np.zeros(inputs.shape, dtype=bool)
        learnt[1:, 0] = True
        example = Example(words, np.zeros(len(words)), self.no_codes(), id)
        return finish(inputs, learnt, np.ones(inputs.shape, dtype=np.float32), 0, example)

    @abc.abstractmethod
    def undo(self, inputs: np.ndarray) -> Parts:
        """What is in inputs `[S, R]`: the inverse of `apply`, for sampled inputs too."""

    def units_of(self, ids: np.ndarray) -> np.ndarray:
        """The units that ids of the row of units stand for: themselves, where they are not merged."""
        return ids

    def latents_of(self, inputs: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """The codec's latents, float32 `[T, d]`, among inputs `[S, R]` and what they hold of latents, `[S, latent_dim]`."""
        return np.zeros((0, 0), dtype=np.float32)

    def kept(self, example: Example) -> Parts:
        """What of an example its sequence holds, and so what `undo` gives back. All of it, but in layouts that choose."""
        return Parts(example.words, example.codes, example.units)

    @abc.abstractmethod
    def prompt(self, example: Example, max_s: float) -> "Prompt":
        """The beginning of a sequence to be sampled: words, codes or both, and how many seconds it may last in all."""


class Prompt(abc.ABC):
    """The state of one sequence while it is sampled: what is given is forced, the rest is drawn."""

    @abc.abstractmethod
    def next(self, draw: Draw) -> np.ndarray | None:
        """The next position's ids `[R]`, or None when the sequence has ended. `draw` is not called for what is given."""

    def latent(self, sample: Callable[[], np.ndarray]) -> np.ndarray | None:
        """The latent `[d]` that the position just given holds: known, or drawn by `sample`; None where it holds none."""
        return None


class Script(Prompt):
    """A prompt whose positions a generator gives one by one; it calls `draw` for what is not given.

    `steps` gets the Script and returns the generator.
    """

    draw: Draw

    def __init__(self, steps: Callable[["Script"], Iterator[np.ndarray]]) -> None:
        self._steps = steps(self)

    def next(self, draw: Draw) -> np.ndarray | None:
        self.draw = draw
        return next(self._steps, None)


def finish(inputs: np.ndarray, learnt: np.ndarray, weights: np.ndarray, shifted: int, example: Example) -> Sequence:
    """A Sequence whose labels are the next position's inputs where `learnt` (bool `[S, R]`, by input position) says so."""
    learnt = learnt & (inputs != NOTHING)
    labels = np.full_like(inputs, IGNORE)
    labels[:-1] = np.where(learnt[1:], inputs[1:], IGNORE)
    moved = np.zeros(inputs.shape, dtype=np.float32)
    moved[:-1] = np.where(learnt[1:], weights[1:], 0.0)
    return Sequence(inputs, labels, moved, shifted, example.id, example.audio_s)
