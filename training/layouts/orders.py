"""Orders of codebooks, without words in time: codes `[K, T]` as MusicGen, AudioLM and VALL-E put them in sequence.

Four codebooks a, b, c, d, four frames; S is the special `pad`, position 0 of all:

    delay 0 1 2 3             acoustic-delay 0 1 1 1       flatten:       S a0 b0 c0 d0 a1 b1 c1 d1 ...
    S a0 a1 a2 a3 S  S  S     S  a0 a1 a2 a3 S             coarse-first:  S a0 a1 a2 a3 | b0..b3 | c0..c3 | d0..d3
    S S  b0 b1 b2 b3 S  S     S  S  b0 b1 b2 b3            parallel: all delays 0, and S after the last frame
    S S  S  c0 c1 c2 c3 S     S  S  c0 c1 c2 c3
    S S  S  S  d0 d1 d2 d3    S  S  d0 d1 d2 d3

The end is the first codebook's S after its last code, which is learnt: for all frames of the others are known then. With a
depth transformer, which predicts the codebooks of a position one after the other, acoustic-delay is exact within a frame.
`vall-e` (arXiv 2301.02111) is coarse-first after the text; `audiolm-fine` has the first codebooks given and flattened, then the
further ones.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts.base import NOTHING, Example, Layout, LayoutOptions, Parts, Row, Script, Sequence, Vocabulary
from training.layouts.stream import Stream, frame_by_frame, join

START = "[Speech]"


class OrderLayoutOptions(LayoutOptions):
    """What all orders of codebooks can be told."""

    codebooks: int | None = Field(default=None, ge=1)
    """Use only the first codebooks; null uses all."""
    text_first: bool = False
    """Put the words, given and not learnt, before the codes (vall-e)."""
    text_weight: float = Field(default=0.0, ge=0)
    """Weight of the mean text loss in the total: no text is learnt."""
    speech_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean speech loss in the total."""


class OrderLayout(Layout):
    """(Text,) start, codes."""

    kinds = ("codec",)
    options: OrderLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        sizes = self.card.sizes[: self.options.codebooks]
        codes = [Row(f"codec_{k}", size, ("pad",)) for k, size in enumerate(sizes)]
        self.rows = (Row("text", vocabulary.size, ("bos", "eos", START)), *codes)
        self.n_codebooks = len(sizes)

    def before(self, example: Example) -> Stream:
        """The text where it comes first, and the position from which the first code is predicted."""
        stream = Stream(self.rows)
        if self.options.text_first:
            stream.mark(0, "bos", learnt=False)
            stream.put(0, join(example.words), learnt=False)
        for r in range(1, len(self.rows)):
            stream.beside(r, "pad", learnt=False)
        stream.mark(0, START, learnt=False)
        return stream

    def undo(self, inputs: np.ndarray) -> Parts:
        """Frames of which not all codebooks are there are left out."""
        rows = [inputs[:, r][(inputs[:, r] >= 0) & (inputs[:, r] < row.size)] for r, row in enumerate(self.rows)]
        n_frames = min(map(len, rows[1:]))
        return Parts(self.vocabulary.split(rows[0]), np.stack([row[:n_frames] for row in rows[1:]]))

    def kept(self, example: Example) -> Parts:
        return Parts(example.words if self.options.text_first else [], example.codes[: self.n_codebooks])

    def prompt(self, example: Example, max_s: float) -> Script:
        """Speech is continued; with `text_first`, words are said. Raises UserError for words without it."""
        if not self.options.text_first and len(example.words) > int(np.isfinite(example.starts_s).sum()):
            raise UserError(f"layout {self.name} holds no text: give it speech to go on from, or set text_first")
        most = max(1, round(max_s * self.card.rate_hz), example.codes.shape[1])
        return Script(lambda script: self._begin(script, example, most))

    def _begin(self, script: Script, example: Example, most: int) -> Iterator[np.ndarray]:
        yield from self.before(example).sequence(example).inputs
        yield from self._go_on(script, example.codes[: self.n_codebooks], most)

    def _go_on(self, script: Script, given: np.ndarray, most: int) -> Iterator[np.ndarray]:
        raise NotImplementedError

    def code(self, script: Script, given: np.ndarray, k: int, t: int, ends: bool) -> int:
        """The code of codebook k at frame t: given or drawn; `ends`: it may be the end instead."""
        row = self.rows[1 + k]
        if t < given.shape[1]:
            return int(given[k, t])
        return script.draw(1 + k, row.allow(True, *(("pad",) if ends else ())))


class DelayLayoutOptions(OrderLayoutOptions):
    """A row for each codebook, late by its delay: one position a frame."""

    name: Literal["delay", "parallel", "acoustic-delay"] = "delay"
    """Which layout this is: delays 0, 1, 2, ... (MusicGen), none at all, or one frame from the second codebook on (Moshi)."""
    delays: tuple[int, ...] | None = None
    """Frames by which each codebook is late, the first by none; null: as `name` has it."""


class DelayLayout(OrderLayout):
    """K rows of codes side by side."""

    options: DelayLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        n = self.n_codebooks
        named = {"delay": tuple(range(n)), "parallel": (0,) * n, "acoustic-delay": (0, *(1,) * (n - 1))}
        self.delays = self.options.delays or named[self.name]
        if len(self.delays) != n or self.delays[0] != 0 or min(self.delays) < 0:
            raise UserError(f"delays {list(self.delays)}: give {n} numbers, the first 0, for {n} codebooks")

    def apply(self, example: Example) -> Sequence:
        codes = example.codes[: self.n_codebooks]
        n_frames = codes.shape[1]
        pads = np.array([row.special("pad") for row in self.rows[1:]], dtype=np.int64)
        columns = np.tile(pads, (n_frames + max(1, *self.delays), 1))
        for k, delay in enumerate(self.delays):
            columns[delay : delay + n_frames, k] = codes[k]
        learnt = columns != pads
        learnt[n_frames, 0] = True  # the end; all other pads are given
        stream = self.before(example)
        stream.put(1, columns, learnt)
        return stream.sequence(example)

    def _go_on(self, script: Script, given: np.ndarray, most: int) -> Iterator[np.ndarray]:
        n_frames, step = most, 0
        while step < n_frames + max(1, *self.delays):
            ids = np.array([NOTHING, *(row.special("pad") for row in self.rows[1:])], dtype=np.int64)
            for k, delay in enumerate(self.delays):
                t = step - delay
                if 0 <= t < n_frames:
                    ids[1 + k] = self.code(script, given, k, t, ends=k == 0)
                    if k == 0 and ids[1] == self.rows[1].special("pad"):
                        n_frames = t
            yield ids
            step += 1


class FlatLayoutOptions(OrderLayoutOptions):
    """One code a position: groups of codebooks one after the other, each frame by frame."""

    name: Literal["flatten", "coarse-first", "vall-e", "audiolm-fine"] = "flatten"
    """Which layout this is."""
    coarse: int | None = Field(default=None, ge=1)
    """Codebooks in the first group; null: all (flatten), 1 (coarse-first, vall-e), half and 4 at most (audiolm-fine)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"vall-e": {"text_first": True}}


class FlatLayout(OrderLayout):
    """One code a position."""

    options: FlatLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        n = self.n_codebooks
        fine = self.name == "audiolm-fine"
        first = self.options.coarse or {"flatten": n, "audiolm-fine": min(4, n // 2)}.get(self.name, 1)
        if not 0 < first <= n - fine:
            raise UserError(f"layout {self.name}: {first} coarse codebooks of {n} in all")
        # What comes after the first group: all of it together, or each codebook for itself.
        rest = [list(range(first, n))] if fine else [[k] for k in range(first, n)]
        self.groups = [list(range(first)), *rest]
        self.given_first = fine

    def apply(self, example: Example) -> Sequence:
        codes = example.codes[: self.n_codebooks]
        stream = self.before(example)
        for g, group in enumerate(self.groups):
            learnt = g > 0 or not self.given_first
            stream.put(1 + group[0], frame_by_frame(codes[group]), learnt)
            if g == 0:
                stream.mark(1, "pad", learnt)
        return stream.sequence(example)

    def prompt(self, example: Example, max_s: float) -> Script:
        if self.given_first and not example.codes.shape[1]:
            raise UserError(f"layout {self.name} goes on from coarse codes to fine ones: prompt it with a row")
        return super().prompt(example, max_s)

    def _go_on(self, script: Script, given: np.ndarray, most: int) -> Iterator[np.ndarray]:
        """Where the first group is given, all of it, and the codes of the others are drawn."""
        n_frames = given.shape[1] if self.given_first else most
        for g, group in enumerate(self.groups):
            known = given[:, :0] if g and self.given_first else given
            for t in range(n_frames):
                for k in group:
                    ids = np.full(len(self.rows), NOTHING, dtype=np.int64)
                    ids[1 + k] = self.code(script, known, k, t, ends=k == 0)
                    if ids[1] == self.rows[1].special("pad"):
                        n_frames = t
                        break
                    yield ids
                if n_frames == t:
                    break
            if g == 0:
                ids = np.full(len(self.rows), NOTHING, dtype=np.int64)
                ids[1] = self.rows[1].special("pad")
                yield ids
