"""Text beside speech from the first step on, speech later by fixed delays: Mini-Omni (arXiv 2408.16725), Kimi-Audio (2504.18425).

Mini-Omni: codebook k is k + 1 steps late, and its pads are predicted. Text of three tokens, frames f0 and f1 of seven codebooks
(position 0, before step 0, holds the two rows' starts):

    step      0    1    2    3    4    5    6    7    8    9
    text      t0   t1   t2   eot  Pt   Pt   Pt   Pt   Pt   Pt
    A0        Pa   f0   f1   eoa  Pa   Pa ...
    A1        Pa   Pa   f0   f1   eoa  Pa ...
    A6        Pa   Pa   Pa   Pa   Pa   Pa   Pa   f0   f1   eoa

Kimi-Audio: one row of units, six steps late; pads are given.

    text      t0   t1   t2   t3   EOS  B    B    B    B    B
    audio     B    B    B    B    B    B    a0   a1   a2   a3 ... msg_end
"""

import abc
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Tokenizer
from training.layouts.base import Example, Layout, LayoutOptions, Parts, Row, Script, Sequence, Vocabulary, finish
from training.layouts.stream import WORDS_PER_S, join


class RowsLayoutOptions(LayoutOptions):
    """Text and speech side by side, not in step with time."""

    learn_pads: bool = True
    """Whether pads, before and after text and speech, are predicted (mini-omni) or given (kimi-audio)."""
    pad_weight: float = Field(default=1.0, ge=0)
    """Weight of pads among the labels."""


class MiniOmniLayoutOptions(RowsLayoutOptions):
    """A row of text beside all codebooks, codebook k late by k + 1 steps."""

    name: Literal["mini-omni"] = "mini-omni"
    """Which layout this is."""
    codebooks: int | None = Field(default=None, ge=1)
    """Use only the first codebooks; null uses all."""


class KimiLayoutOptions(RowsLayoutOptions):
    """A row of text beside a row of units, one a frame, that begins some steps later."""

    name: Literal["kimi-audio"] = "kimi-audio"
    """Which layout this is."""
    delay: int = Field(default=6, ge=0)
    """Steps by which speech is late."""
    learn_pads: bool = False
    """Whether pads, before and after text and speech, are predicted."""
    text_weight: float = Field(default=7.0, ge=0)
    """Weight of the mean text loss in the total (7 to 1 among Kimi-Audio's tasks)."""
    speech_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean speech loss in the total."""


class RowsLayout(Layout):
    """Text from step 0, K rows of speech from step `delays[k]`; each row ends with its own mark."""

    text_marks = ("start", "eot")
    options: RowsLayoutOptions
    delays: tuple[int, ...]

    def _rows(self, names: list[str], sizes: tuple[int, ...]) -> tuple[Row, ...]:
        speech = [Row(name, size, ("start", "eoa", "pad")) for name, size in zip(names, sizes, strict=True)]
        return (Row("text", self.vocabulary.size, ("start", "eot", "pad")), *speech)

    @abc.abstractmethod
    def tracks(self, example: Example) -> np.ndarray:
        """Int64 `[K, T]`: what the speech rows hold, undelayed."""

    def apply(self, example: Example) -> Sequence:
        text, tracks = join(example.words), self.tracks(example)
        n_frames = tracks.shape[1]
        n_positions = 1 + max(len(text), n_frames + max(self.delays)) + 1
        pads = np.array([row.special("pad") for row in self.rows], dtype=np.int64)
        inputs = np.tile(pads, (n_positions, 1))
        inputs[0] = [row.special("start") for row in self.rows]
        inputs[1 : 1 + len(text), 0] = text
        inputs[1 + len(text), 0] = self.rows[0].special("eot")
        for k, delay in enumerate(self.delays):
            inputs[1 + delay : 1 + delay + n_frames, 1 + k] = tracks[k]
            inputs[1 + delay + n_frames, 1 + k] = self.rows[1 + k].special("eoa")
        is_pad = inputs == pads
        learnt = ~is_pad | self.options.learn_pads
        learnt[0] = False
        weights = np.where(is_pad, self.options.pad_weight, 1.0).astype(np.float32)
        return finish(inputs, learnt, weights, 0, example)

    def undo(self, inputs: np.ndarray) -> Parts:
        """Frames of which not all rows are there are left out."""
        rows = [inputs[:, r][(inputs[:, r] >= 0) & (inputs[:, r] < row.size)] for r, row in enumerate(self.rows)]
        n_frames = min(map(len, rows[1:]))
        return self.parts(self.vocabulary.split(rows[0]), np.stack([row[:n_frames] for row in rows[1:]]))

    def kept(self, example: Example) -> Parts:
        return self.parts(example.words, self.tracks(example))

    def parts(self, words: list[list[int]], tracks: np.ndarray) -> Parts:
        return Parts(words, tracks)

    def prompt(self, example: Example, max_s: float) -> Script:
        """Words without speech are said, no more and no less. After speech, text goes on as the model wants."""
        return Script(lambda script: self._speak(script, example, max_s))

    def _speak(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        text_row, vocabulary = self.rows[0], self.vocabulary
        text, given = join(example.words), self.tracks(example)
        n_given = given.shape[1]
        text_left = round(max_s * WORDS_PER_S) if n_given else 0
        most = max(1, n_given, round(max_s * self.card.rate_hz))
        n_frames: int | None = None
        begins = vocabulary.starts_word
        ended = False
        step = 0
        yield np.array([row.special("start") for row in self.rows], dtype=np.int64)
        while not ended or n_frames is None or step <= n_frames + max(self.delays):
            ids = np.array([row.special("pad") for row in self.rows], dtype=np.int64)
            if text:
                ids[0] = text.pop(0)
            elif not ended:
                ids[0] = text_row.special("eot")
                if text_left > 0:
                    ids[0] = script.draw(0, text_row.allow(begins, "eot"))
                    text_left, begins = text_left - 1, vocabulary.starts_word | vocabulary.continues_word
                ended = ids[0] == text_row.special("eot")
            for k, delay in enumerate(self.delays):
                t, row = step - delay, self.rows[1 + k]
                if 0 <= t < n_given:
                    ids[1 + k] = given[k, t]
                elif t >= 0 and (n_frames is None or t < n_frames):
                    # The row that is least late says where speech ends.
                    last = k == 0 and t >= most
                    end = ("eoa",) if k == 0 else ()
                    ids[1 + k] = row.special("eoa") if last else script.draw(1 + k, row.allow(True, *end))
                    if ids[1 + k] == row.special("eoa"):
                        n_frames = t
                elif t >= 0 and t == n_frames:
                    ids[1 + k] = row.special("eoa")
            yield ids
            step += 1


class MiniOmniLayout(RowsLayout):
    """Text and K codebooks."""

    kinds = ("codec",)
    options: MiniOmniLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        sizes = self.card.sizes[: self.options.codebooks]
        self.rows = self._rows([f"codec_{k}" for k in range(len(sizes))], sizes)
        self.delays = tuple(range(1, len(sizes) + 1))

    def no_codes(self) -> np.ndarray:
        return np.zeros((len(self.delays), 0), dtype=np.int64)

    def tracks(self, example: Example) -> np.ndarray:
        return example.codes[: len(self.delays)]


class KimiLayout(RowsLayout):
    """Text and one row of units, one a frame."""

    kinds = ("units",)
    options: KimiLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        self.rows = self._rows(["units"], self.card.sizes)
        self.delays = (self.options.delay,)

    def tracks(self, example: Example) -> np.ndarray:
        return np.repeat(example.units, example.run_lengths)[None]

    def parts(self, words: list[list[int]], tracks: np.ndarray) -> Parts:
        return Parts(words, self.no_codes(), tracks[0])
