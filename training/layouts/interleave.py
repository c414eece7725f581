"""Text and units in turn, switching between words (Spirit-LM, arXiv 2402.05755; SIMS, arXiv 2504.02398).

Units 12 7 33 5 90 41 8 over `the cat sat`, `cat` as speech:

    row 0           the  [Speech]                sat  EOS
    row 1    [Text]               33   5  [Text]
"""

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from training.layouts.base import Example, Parts, Script, Sequence
from training.layouts.spans import alternating, generator, poisson, word_bounds
from training.layouts.stream import Stream, join
from training.layouts.units import UnitLayout, UnitLayoutOptions


class InterleaveLayoutOptions(UnitLayoutOptions):
    """Text and units in turn, switching at word boundaries."""

    name: Literal["spirit-lm", "sims"] = "spirit-lm"
    """Which layout this is: spirit-lm has random spans, sims spans of Poisson length."""
    longest: int = Field(default=10, ge=1)
    """spirit-lm: words in a span, at the most. The law is ours: each length from 1 on is as likely."""
    mean_words: float = Field(default=10.0, gt=0)
    """sims: mean of the words in a span of speech."""
    speech_share: float = Field(default=0.3, ge=0, le=1)
    """sims: spans are drawn until so many of the words are speech."""
    seed: int = 0
    """Of the spans. They depend on it and on the row's id alone: another seed gives another corpus."""


class InterleaveLayout(UnitLayout):
    """Spans of words, each as text or as units. Pure: which is which depends on the example's id."""

    specials = (("bos", "[Speech]", "eos"), ("[Text]", "eos"))
    options: InterleaveLayoutOptions

    @property
    def at_words(self) -> bool:
        return True

    def speech(self, example: Example) -> np.ndarray:
        """Bool `[W]`: which words are units."""
        options, random = self.options, generator(example.id, self.options.seed)
        if options.name == "sims":
            return poisson(random, len(example.words), options.mean_words, options.speech_share)
        return alternating(random, len(example.words), options.longest)

    def apply(self, example: Example) -> Sequence:
        return self.lay_out(example, self.speech(example))

    def lay_out(self, example: Example, speech: np.ndarray) -> Sequence:
        """The sequence in which the words marked in `speech`, bool `[W]`, are units. Without words, all is speech."""
        stream = Stream(self.rows)
        row = 1
        for row, span in self.spans(example, speech):
            begins = stream.n == 0
            stream.mark(1 - row, ("[Text]", "[Speech]")[row], learnt=not begins)
            stream.put(row, span)
        stream.mark(row, "eos")
        return stream.sequence(example)

    def spans(self, example: Example, speech: np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """Each span: its row, and its ids."""
        if not example.words:
            yield 1, self.units(example).tolist()
            return
        bounds = word_bounds(example, self.card.rate_hz)
        edges = [0, *(np.flatnonzero(np.diff(speech.astype(int))) + 1).tolist(), len(speech)]
        for start, end in itertools.pairwise(edges):
            if not speech[start]:
                yield 0, join(example.words[start:end])
                continue
            here = slice(bounds[start], bounds[end])
            units = example.units[here]
            yield 1, (units if self.options.deduplicate else np.repeat(units, example.run_lengths[here])).tolist()

    def kept(self, example: Example) -> Parts:
        """Words that are text, and units of those that are speech."""
        speech = self.speech(example)
        units = [unit for row, span in self.spans(example, speech) if row == 1 for unit in span]
        text = [word for word, spoken in zip(example.words, speech, strict=True) if not spoken]
        return Parts(text, self.no_codes(), np.array(units, dtype=np.int64))

    def prompt(self, example: Example, max_s: float) -> Script:
        """Speech and then new words are given, as far as there are any; what is drawn is speech to the end."""
        return Script(lambda script: self._speak(script, example, max_s))

    def _speak(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        heard = self.units(example)
        written = example.words[self.heard(example) if len(heard) else 0 :]
        if len(heard) or not written:
            yield self.mark(0, "[Speech]")
            yield from self.force(1, heard)
        if written:
            yield self.mark(1, "[Text]")
            yield from self.force(0, join(written))
            yield self.mark(0, "[Speech]")
        yield from self.go_on(script, 1, max(1, self.max_units(max_s) - len(heard)), "eos")
