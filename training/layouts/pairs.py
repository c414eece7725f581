"""Two speech streams in one: units and codec codes.

step-audio        L1 L2 S1 S2 S3 | L3 L4 S4 S5 S6 | ...     units and the first codebook in turn, in step with time
audiolm-coarse    u1 u2 u3 ... | a0 b0 a1 b1 ...            units, and then the first codebooks frame by frame
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts.base import Example, LayoutOptions, Parts, Row, Script, Sequence, Vocabulary
from training.layouts.chunks import alternate
from training.layouts.stream import Stream, StreamLayout, frame_by_frame


class StepLayoutOptions(LayoutOptions):
    """Units and the codec's first codebook in turn (Step-Audio)."""

    name: Literal["step-audio"] = "step-audio"
    """Which layout this is."""
    unit_chunk: int | None = Field(default=None, ge=1)
    """Units in a chunk, one a frame; null: as the streams' rates have it (Step-Audio's 16.7 and 25 Hz: 2)."""
    code_chunk: int | None = Field(default=None, ge=1)
    """Codes in a chunk; null: as the streams' rates have it (Step-Audio's: 3)."""


class PairLayout(StreamLayout):
    """Row 1 units, the further rows codebooks."""

    kinds = ("units", "codec")

    def undo(self, inputs: np.ndarray) -> Parts:
        """Frames of which not all codebooks are there are left out."""
        rows = [inputs[:, r][(inputs[:, r] >= 0) & (inputs[:, r] < row.size)] for r, row in enumerate(self.rows)]
        n_frames = min(map(len, rows[2:]))
        return Parts([], np.stack([row[:n_frames] for row in rows[2:]]), rows[1])


class StepLayout(PairLayout):
    """Chunks of units and of codes; each stream ends with EOS, and the other goes on alone."""

    specials = (("bos", "eos"), ("eos",), ("eos",))
    options: StepLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        # In eighths at the finest: chunks of more would hold the codes back.
        ratio = Fraction(self.cards["units"].rate_hz / self.cards["codec"].rate_hz).limit_denominator(8)
        self.sizes = (
            self.options.unit_chunk or max(1, ratio.numerator),
            self.options.code_chunk or ratio.denominator,
        )

    def no_codes(self) -> np.ndarray:
        return np.zeros((1, 0), dtype=np.int64)

    def _streams(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        codes = example.codes[0] if len(example.codes) else np.zeros(0, dtype=np.int64)
        return np.repeat(example.units, example.run_lengths), codes

    def kept(self, example: Example) -> Parts:
        units, codes = self._streams(example)
        return Parts([], codes[None], units)

    def apply(self, example: Example) -> Sequence:
        streams = self._streams(example)
        stream = Stream(self.rows)
        stream.mark(0, "bos", learnt=False)
        for which, start, end in alternate(len(streams[0]) + 1, len(streams[1]) + 1, *self.sizes):
            stream.put(1 + which, streams[which][start:end])
            if end > len(streams[which]):
                stream.mark(1 + which, "eos")
        return stream.sequence(example)

    def prompt(self, example: Example, max_s: float) -> Script:
        """Speech is continued. Raises UserError for words."""
        if len(example.words) > int(np.isfinite(example.starts_s).sum()):
            raise UserError(f"layout {self.name} holds no text: give it speech to go on from, and no words")
        return Script(lambda script: self._go_on(script, example, max_s))

    def _go_on(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        given = [stream.tolist() for stream in self._streams(example)]
        left = [max(1, round(max_s * card.rate_hz)) for card in self.cards.values()]
        ended = [False, False]
        yield self.mark(0, "bos")
        while not all(ended):
            for which, size in enumerate(self.sizes):
                row, n = self.rows[1 + which], 0
                while not ended[which] and (ended[1 - which] or n < size):
                    n += 1
                    if given[which]:
                        token = given[which].pop(0)
                    else:
                        token = (
                            script.draw(1 + which, row.allow(True, "eos")) if left[which] > 0 else row.special("eos")
                        )
                    left[which] -= 1
                    ended[which] = token == row.special("eos")
                    yield self.one(1 + which, token)


class AudioLMLayoutOptions(LayoutOptions):
    """Units, and then the codec's first codebooks frame by frame: AudioLM's second stage (arXiv 2209.03143)."""

    name: Literal["audiolm-coarse"] = "audiolm-coarse"
    """Which layout this is. AudioLM's first stage is the layout units; its third, audiolm-fine."""
    coarse: int | None = Field(default=None, ge=1)
    """The first so many codebooks; null: half of them, and 4 at the most."""


class AudioLMLayout(PairLayout):
    """BOS, units (given), then codes of the first codebooks in turn, EOS in the first one's row."""

    specials = (("bos",), ("end",))
    options: AudioLMLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super(StreamLayout, self).__init__(options, vocabulary, cards)
        sizes = cards["codec"].sizes
        coarse = self.options.coarse or max(1, min(4, len(sizes) // 2))
        codes = [Row(f"codec_{k}", size, ("eos",)) for k, size in enumerate(sizes[:coarse])]
        self.rows = (
            Row("text", vocabulary.size, ("bos", "eos")),
            Row("units", cards["units"].sizes[0], ("end",)),
            *codes,
        )
        self.n_codebooks = len(codes)

    def kept(self, example: Example) -> Parts:
        return Parts([], example.codes[: self.n_codebooks], example.units)

    def apply(self, example: Example) -> Sequence:
        stream = Stream(self.rows)
        stream.mark(0, "bos", learnt=False)
        stream.put(1, example.units, learnt=False)
        stream.mark(1, "end", learnt=False)
        stream.put(2, frame_by_frame(example.codes[: self.n_codebooks]))
        stream.mark(2, "eos")
        return stream.sequence(example)

    def prompt(self, example: Example, max_s: float) -> Script:
        """Units are given, and the codes of their first frames perhaps. Raises UserError without units."""
        if not len(example.units):
            raise UserError(f"layout {self.name} gives units a voice: prompt it with a row")
        n_frames = round(int(example.run_lengths.sum()) / self.cards["units"].rate_hz * self.cards["codec"].rate_hz)
        most = max(1, example.codes.shape[1], min(n_frames, round(max_s * self.cards["codec"].rate_hz)))
        return Script(lambda script: self._voice(script, example, most))

    def _voice(self, script: Script, example: Example, n_frames: int) -> Iterator[np.ndarray]:
        yield self.mark(0, "bos")
        yield from self.force(1, example.units)
        yield self.mark(1, "end")
        for t in range(n_frames):
            for k in range(self.n_codebooks):
                row = self.rows[2 + k]
                if t < example.codes.shape[1]:
                    code = int(example.codes[k, t])
                else:
                    code = script.draw(2 + k, row.allow(True, *(("eos",) if k == 0 else ())))
                yield self.one(2 + k, code)
                if code >= row.size:
                    return
        yield self.mark(2, "eos")
