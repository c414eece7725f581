"""Text alone, and units alone: a text LM's food, and that of TWIST and GSLM (arXiv 2305.13009, 2102.01192).

text       BOS  the  cat  sat  EOS
units      BOS  12   7    33   5    EOS
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from training.layouts.base import Example, LayoutOptions, Parts, Script, Sequence
from training.layouts.stream import Stream, StreamLayout
from training.layouts.units import UnitLayout, UnitLayoutOptions


class TextLayoutOptions(LayoutOptions):
    """Text only: what the words say, and nothing of how they sound."""

    name: Literal["text"] = "text"
    """Which layout this is."""
    text_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean text loss in the total: here, all of it."""


class TextLayout(StreamLayout):
    """BOS, the words, EOS."""

    kinds = ()
    specials = (("bos", "eos"),)

    def apply(self, example: Example) -> Sequence:
        return self.text_stream(example).sequence(example)

    def kept(self, example: Example) -> Parts:
        return Parts(example.words, self.no_codes())

    def prompt(self, example: Example, max_s: float) -> Script:
        return self.text_prompt(example, max_s)


class UnitsLayoutOptions(UnitLayoutOptions):
    """Units only: speech without text."""

    name: Literal["units"] = "units"
    """Which layout this is."""
    speech_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean speech loss in the total: here, all of it."""


class UnitsLayout(UnitLayout):
    """BOS, the units, EOS. There are no words in it."""

    specials = (("bos", "eos"), ("eos",))

    def apply(self, example: Example) -> Sequence:
        stream = Stream(self.rows)
        stream.mark(0, "bos", learnt=False)
        stream.put(1, self.units(example))
        stream.mark(1, "eos")
        return stream.sequence(example)

    def kept(self, example: Example) -> Parts:
        return Parts([], self.no_codes(), self.units(example))

    def prompt(self, example: Example, max_s: float) -> Script:
        self.refuse_new_words(example)
        return Script(lambda script: self._go_on(script, example, max_s))

    def _go_on(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        yield self.mark(0, "bos")
        yield from self.say(script, self.units(example), max_s, "eos")
