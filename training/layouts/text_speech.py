"""Text first, then units: the order of Spectron (arXiv 2305.15255), and of any TTS.

    row 0    [Speech]             t1  t2  t3  t4  t5  [Speech]
    row 1              u1  u2 [Text]                           u3  u4  u5  EOS

The first `prompt_s` seconds of speech are heard; the model writes what was said, and how it goes on, and then says the rest.
Where there is no prompt: BOS t1 .. t5 [Speech] u1 .. u5 EOS.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from training.layouts.base import Example, Script, Sequence
from training.layouts.spans import word_bounds
from training.layouts.stream import WORDS_PER_S, Stream, join
from training.layouts.units import UnitLayout, UnitLayoutOptions


class TextSpeechLayoutOptions(UnitLayoutOptions):
    """Text, then its speech; with a prompt, the speech that the text begins with comes first (Spectron)."""

    name: Literal["text-speech", "spectron"] = "text-speech"
    """Which layout this is."""
    prompt_s: float = Field(default=0.0, ge=0)
    """Seconds of speech that are heard before the text, cut after a word, half of them at the latest (spectron: 3)."""
    learn_text: bool = True
    """Whether the text is to be predicted."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"spectron": {"prompt_s": 3.0}}


class TextSpeechLayout(UnitLayout):
    """(Prompt,) text, speech."""

    specials = (("bos", "[Speech]", "eos"), ("[Text]", "eos"))
    options: TextSpeechLayoutOptions

    @property
    def at_words(self) -> bool:
        return self.options.prompt_s > 0

    def n_prompt(self, example: Example) -> int:
        """How many units are heard first: those of the words that end within `prompt_s`, of half of all words at the most."""
        ended = np.searchsorted(np.maximum.accumulate(example.ends_s), self.options.prompt_s + 1e-6, side="right")
        n_words = min(int(ended), len(example.words) // 2)
        if n_words == 0 or self.options.prompt_s == 0:
            return 0
        n_kept = int(word_bounds(example, self.card.rate_hz)[n_words])
        return n_kept if self.options.deduplicate else int(example.run_lengths[:n_kept].sum())

    def apply(self, example: Example) -> Sequence:
        units, n_prompt, learn_text = self.units(example), self.n_prompt(example), self.options.learn_text
        stream = Stream(self.rows)
        if n_prompt:
            stream.mark(0, "[Speech]", learnt=False)
            stream.put(1, units[:n_prompt], learnt=False)
            stream.mark(1, "[Text]", learnt=False)
        else:
            stream.mark(0, "bos", learnt=False)
        stream.put(0, join(example.words), learn_text)
        stream.mark(0, "[Speech]", learn_text)
        stream.put(1, units[n_prompt:])
        stream.mark(1, "eos")
        return stream.sequence(example)

    def prompt(self, example: Example, max_s: float) -> Script:
        """Words without speech are said, no more and no less. After speech, text goes on as the model wants."""
        return Script(lambda script: self._speak(script, example, max_s))

    def _speak(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        heard = self.units(example)
        if len(heard):
            yield self.mark(0, "[Speech]")
            yield from self.force(1, heard)
            yield self.mark(1, "[Text]")
        else:
            yield self.mark(0, "bos")
        yield from self.force(0, join(example.words))
        goes_on = len(heard) > 0 and self.options.learn_text
        yield from self.go_on(script, 0, round(max_s * WORDS_PER_S) if goes_on else 0, "[Speech]")
        left = self.max_units(max_s) - len(heard)
        yield from self.go_on(script, 1, max(1, left), "eos")
