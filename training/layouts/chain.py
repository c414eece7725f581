"""SpeechGPT's chain of modality (arXiv 2305.11000): speech is answered by way of its text, the answer's text, and then speech.

    [Human]: <sosp> u u u <eosp> <eoh> [SpeechGPT]: hi there ; [ta] hello ; [ua] <sosp> u u ... <eosp> <eoa>

Each mark of the template is one id. `<eosp>` is said by the row of units, all others by the row of text. What the user says is
not learnt; what is answered is, the user's text with it. A turn that nobody answers has its text after it all the same.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from schemas.errors import UserError
from training.layouts.base import Example, Parts, Script, Sequence
from training.layouts.dialogue import DialogueLayout
from training.layouts.stream import WORDS_PER_S, Stream, join
from training.layouts.units import UnitLayout, UnitLayoutOptions

HUMAN, SOSP, EOSP, EOH, ANSWER, TA, UA, EOA = (
    "[Human]:",
    "<sosp>",
    "<eosp>",
    "<eoh>",
    "[SpeechGPT]:",
    "; [ta]",
    "; [ua]",
    "<eoa>",
)


class ChainLayoutOptions(UnitLayoutOptions):
    """Dialogues by SpeechGPT's chain of modality: heard units, their text, the answer's text, its units."""

    name: Literal["speechgpt"] = "speechgpt"
    """Which layout this is."""


class ChainLayout(DialogueLayout, UnitLayout):
    """The template, once for each answer."""

    specials = ((HUMAN, SOSP, EOH, ANSWER, TA, UA, EOA), (EOSP,))
    text_marks = (ANSWER, EOA)
    options: ChainLayoutOptions

    def apply(self, example: Example) -> Sequence:
        stream = Stream(self.rows)
        heard: list[list[int]] = []
        for turn in example.turns:
            if turn.role != "assistant":
                self._speech(stream, turn, learnt=False, before=HUMAN, after=EOH)
                heard = heard + turn.words
                continue
            self._text(stream, heard)
            heard = []
            stream.mark(0, TA)
            stream.put(0, join(turn.words))
            self._speech(stream, turn, learnt=True, before=UA, after=EOA)
        if heard:
            self._text(stream, heard)
            stream.mark(0, EOA)
        return stream.sequence(example)

    def _text(self, stream: Stream, heard: list[list[int]]) -> None:
        stream.mark(0, ANSWER, learnt=False)
        stream.put(0, join(heard))

    def _speech(self, stream: Stream, turn: Example, learnt: bool, before: str, after: str) -> None:
        stream.mark(0, before, learnt)
        stream.mark(0, SOSP, learnt)
        stream.put(1, self.units(turn), learnt)
        stream.mark(1, EOSP, learnt)
        stream.mark(0, after, learnt)

    def kept(self, example: Example) -> Parts:
        units = [np.zeros(0, dtype=np.int64), *(self.units(turn) for turn in example.turns)]
        return Parts(example.words, self.no_codes(), np.concatenate(units))

    def prompt(self, example: Example, max_s: float) -> Script:
        """Speech is given, and perhaps its text; words beyond that are the answer's. Raises UserError without speech."""
        if not len(example.units):
            raise UserError(f"layout {self.name} answers speech: give it a row to hear")
        return Script(lambda script: self._answer(script, example, max_s))

    def _answer(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        n_heard = self.heard(example)
        heard, answer = example.words[:n_heard], example.words[n_heard:]
        most = round(max_s * WORDS_PER_S)
        yield self.mark(0, HUMAN)
        yield self.mark(0, SOSP)
        yield from self.force(1, self.units(example))
        yield self.mark(1, EOSP)
        yield self.mark(0, EOH)
        yield self.mark(0, ANSWER)
        yield from self.force(0, join(heard))
        yield from self.go_on(script, 0, 0 if heard else most, TA)
        yield from self.force(0, join(answer))
        yield from self.go_on(script, 0, 0 if answer else most, UA)
        yield self.mark(0, SOSP)
        yield from self.go_on(script, 1, self.max_units(max_s), EOSP)
        yield self.mark(0, EOA)
