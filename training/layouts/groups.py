"""Several frames to a step: SpeechGPT-2.0-preview, whose step is three frames of three codebooks and one text token.

    step      0     1     2     3     4
    text      SOSP  t0    t1    EMP   EOSP      EMP fills text up to the end of the speech
    cb1       z z z a0-a2 a3-a5 a6-a8 z z z
    cb2       z z z b0-b2 b3-b5 b6-b8 z z z

A last group that is not full is filled with z, and text that is longer than the speech goes on beside z: both are cut in the
system this comes from. Each codebook has a row for each frame of the group: the row `codec_1.2` holds b2, b5, b8.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Tokenizer
from training.layouts.base import Example, Layout, LayoutOptions, Parts, Row, Script, Sequence, Vocabulary, finish
from training.layouts.stream import WORDS_PER_S, join


class GroupLayoutOptions(LayoutOptions):
    """One text token beside a group of codec frames."""

    name: Literal["speechgpt2"] = "speechgpt2"
    """Which layout this is."""
    codebooks: int | None = Field(default=None, ge=1)
    """Use only the first codebooks; null uses all (SpeechGPT-2.0-preview has 3)."""
    group: int = Field(default=3, ge=1)
    """Frames in a step."""
    pad_weight: float = Field(default=1.0, ge=0)
    """Weight of EMP and z among the labels."""


class GroupLayout(Layout):
    """Text, and K x `group` rows of codes."""

    kinds = ("codec",)
    text_marks = ("sosp", "eosp")
    options: GroupLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        sizes, group = self.card.sizes[: self.options.codebooks], self.options.group
        speech = [Row(f"codec_{k}.{g}", size, ("z",)) for k, size in enumerate(sizes) for g in range(group)]
        self.rows = (Row("text", vocabulary.size, ("sosp", "eosp", "empty")), *speech)
        self.n_codebooks = len(sizes)
        self.pads = np.array([row.special("z") for row in speech], dtype=np.int64)

    def grouped(self, codes: np.ndarray) -> np.ndarray:
        """`[K, T]` -> `[ceil(T / group), K * group]`, the last group filled with z."""
        group = self.options.group
        n_groups = -(-codes.shape[1] // group)
        filled = np.repeat(self.pads[::group, None], n_groups * group, axis=1)
        filled[:, : codes.shape[1]] = codes
        return filled.reshape(len(codes), n_groups, group).transpose(1, 0, 2).reshape(n_groups, len(codes) * group)

    def apply(self, example: Example) -> Sequence:
        text, groups = join(example.words), self.grouped(example.codes[: self.n_codebooks])
        n_steps = max(len(text), len(groups))
        inputs = np.tile(np.concatenate([[self.rows[0].special("empty")], self.pads]), (n_steps + 2, 1))
        inputs[0, 0] = self.rows[0].special("sosp")
        inputs[1 : 1 + len(text), 0] = text
        inputs[-1, 0] = self.rows[0].special("eosp")
        inputs[1 : 1 + len(groups), 1:] = groups
        learnt = np.ones(inputs.shape, dtype=bool)
        learnt[0] = False
        learnt[-1, 1:] = False
        weights = np.ones(inputs.shape, dtype=np.float32)
        weights[inputs[:, 0] == self.rows[0].special("empty"), 0] = self.options.pad_weight
        weights[:, 1:][inputs[:, 1:] == self.pads] = self.options.pad_weight
        return finish(inputs, learnt, weights, 0, example)

    def undo(self, inputs: np.ndarray) -> Parts:
        text = inputs[:, 0]
        groups = inputs[:, 1:].reshape(len(inputs), self.n_codebooks, self.options.group)
        codes = groups.transpose(1, 0, 2).reshape(self.n_codebooks, -1)
        there = ((codes >= 0) & (codes < self.pads[:: self.options.group, None])).all(axis=0)
        return Parts(self.vocabulary.split(text[text < self.vocabulary.size]), codes[:, there])

    def kept(self, example: Example) -> Parts:
        return Parts(example.words, example.codes[: self.n_codebooks])

    def prompt(self, example: Example, max_s: float) -> Script:
        """Words without speech are said, no more and no less. After speech, text goes on as the model wants."""
        return Script(lambda script: self._speak(script, example, max_s))

    def _speak(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        text_row, vocabulary, group = self.rows[0], self.vocabulary, self.options.group
        text, codes = join(example.words), example.codes[: self.n_codebooks]
        # What is given of a group that it does not fill is left out: nothing could follow it in the group's order.
        given = self.grouped(codes[:, : codes.shape[1] // group * group])
        most = max(1, len(given), round(max_s * self.card.rate_hz / group))
        tokens, left = vocabulary.starts_word, round(max_s * WORDS_PER_S) if len(given) else 0
        yield np.array([text_row.special("sosp"), *self.pads], dtype=np.int64)
        for step in range(max(most, len(text))):
            ids = np.array([text_row.special("empty"), *self.pads], dtype=np.int64)
            if text:
                ids[0] = text.pop(0)
            else:
                end = ("eosp",) if step >= max(1, len(given)) else ()
                ids[0] = script.draw(0, text_row.allow(tokens if left > 0 else False, "empty", *end))
                left = left - 1 if ids[0] < text_row.size else 0  # no text follows EMP
                tokens = vocabulary.starts_word | vocabulary.continues_word
                if ids[0] == text_row.special("eosp"):
                    yield ids
                    return
            if step < len(given):
                ids[1:] = given[step]
            elif step < most:
                ids[1:] = [script.draw(r, row.allow(True)) for r, row in enumerate(self.rows[1:], 1)]
            yield ids
        yield np.array([text_row.special("eosp"), *self.pads], dtype=np.int64)
