"""Rows of text, and then rows of codec frames, turn by turn: CSM.

    row     0    1    2    3    4    5    6    7    8    9
    text    BOS  [0]  hel  lo   EOS  -    -    -    -    -
    cb0     -    -    -    -    -    a0   b0   c0   d0   EOS
    cb1     -    -    -    -    -    a1   b1   c1   d1   EOS

`[0]` is the speaker, numbered as they come in the dialogue. CSM ends a turn by a frame of zeros, which are codes as well; here
EOS is a special. The loss on cb1 and further is on all frames: taking a sixteenth of them is for a depth transformer to do.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Tokenizer
from training.layouts.base import NOTHING, Example, LayoutOptions, Parts, Row, Script, Sequence, Vocabulary
from training.layouts.dialogue import DialogueLayout
from training.layouts.stream import Stream, join


class CsmLayoutOptions(LayoutOptions):
    """Text and then codes, for each turn of a dialogue; a row outside a dialogue is one turn."""

    name: Literal["csm"] = "csm"
    """Which layout this is."""
    codebooks: int | None = Field(default=None, ge=1)
    """Use only the first codebooks; null uses all."""
    speakers: int = Field(default=2, ge=1)
    """How many speakers a dialogue may have."""
    learn_text: bool = False
    """Whether the text is to be predicted, too."""
    text_weight: float = Field(default=0.0, ge=0)
    """Weight of the mean text loss in the total (CSM is given its text)."""
    speech_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean speech loss in the total."""


class CsmLayout(DialogueLayout):
    """Turns of text and codes."""

    kinds = ("codec",)
    needs_dialogue = False
    options: CsmLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        sizes = self.card.sizes[: self.options.codebooks]
        speakers = [f"[{i}]" for i in range(self.options.speakers)]
        codes = [Row(f"codec_{k}", size, ("eos",)) for k, size in enumerate(sizes)]
        self.rows = (Row("text", vocabulary.size, ("bos", "eos", *speakers)), *codes)
        self.n_codebooks = len(sizes)
        self.end = np.array([row.special("eos") for row in codes], dtype=np.int64)

    def apply(self, example: Example) -> Sequence:
        stream = Stream(self.rows)
        names: list[str] = []
        for turn in example.turns or [example]:
            if turn.role not in names:
                names.append(turn.role)
            if len(names) > self.options.speakers:
                raise ValueError(f"row {example.id}: {len(names)} speakers, and speakers = {self.options.speakers}")
            stream.mark(0, "bos", learnt=False)
            stream.mark(0, f"[{names.index(turn.role)}]", learnt=False)
            stream.put(0, join(turn.words), self.options.learn_text)
            stream.mark(0, "eos", self.options.learn_text)
            stream.put(1, turn.codes[: self.n_codebooks].T)
            stream.put(1, self.end[None])
        return stream.sequence(example)

    def undo(self, inputs: np.ndarray) -> Parts:
        text, codes = inputs[:, 0], inputs[:, 1:]
        there = ((codes >= 0) & (codes < self.end)).all(axis=1)
        return Parts(self.vocabulary.split(text[(text >= 0) & (text < self.vocabulary.size)]), codes[there].T)

    def kept(self, example: Example) -> Parts:
        return Parts(example.words, example.codes[: self.n_codebooks])

    def prompt(self, example: Example, max_s: float) -> Script:
        """Words are said, after a turn of the same speaker where speech is given; speech alone is continued."""
        return Script(lambda script: self._speak(script, example, max_s))

    def _speak(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        n_heard = int(np.isfinite(example.starts_s).sum())
        heard = Example(example.words[:n_heard], example.starts_s[:n_heard], example.codes)
        said = Example(example.words[n_heard:], example.starts_s[n_heard:], self.no_codes())
        has_speech = example.codes.shape[1] > 0
        turns = [
            turn for turn, there in ((heard, has_speech or n_heard), (said, said.words or not has_speech)) if there
        ]
        given = self.apply(Example([], np.zeros(0), self.no_codes(), turns=turns)).inputs
        yield from given[:-1]  # all but the last turn's end
        left = max(1, round(max_s * self.card.rate_hz) - example.codes.shape[1])
        for _ in range(left):
            ids = np.full(len(self.rows), NOTHING, dtype=np.int64)
            ids[1] = script.draw(1, self.rows[1].allow(True, "eos"))
            if ids[1] == self.end[0]:
                break
            ids[2:] = [script.draw(r, row.allow(True)) for r, row in enumerate(self.rows[2:], 2)]
            yield ids
        yield given[-1]
