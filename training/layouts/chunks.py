"""Two streams in turn, so many of the one and then so many of the other: GLM-4-Voice, LLaMA-Omni2, CosyVoice 2, Step-Audio.

    glm-4-voice   t1..t13 a1..a26 t14..t26 a27..a52 t27 t28 t29 a53..a78 a79 ... <|user|>
    llama-omni2   f1 f2 f3 u1..u10 f4 f5 f6 u11..u20 f7 <sep> u21 u22 ... eos
    cosyvoice2    sos x1..x5 s1..s15 x6..x10 s16..s30 x11 task_id s31 ... eos
    step-audio    L1 L2 S1 S2 S3 | L3 L4 S4 S5 S6 | ...

Which row comes next follows from counting, up to the end of a stream, and that is said by a mark: of the text's row after its
last token (at GLM-4-Voice beside the unit that follows, where it takes no position), of the units' row after the last unit. The
other stream then goes on alone, to its end. CosyVoice's FILL, which it predicts after each full chunk of units, stands beside
the token that follows.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts.base import NOTHING, Example, LayoutOptions, Script, Sequence, Vocabulary
from training.layouts.spans import generator
from training.layouts.stream import WORDS_PER_S, Stream, join
from training.layouts.units import UnitLayout, UnitLayoutOptions


def alternate(n_first: int, n_second: int, first: int, second: int) -> list[tuple[int, int, int]]:
    """Chunks `(which, start, end)` of two streams of lengths `n_first` and `n_second`, `first` of the one, `second` of the other.

    The stream that is left alone when the other has ended is one chunk to its end. Empty chunks are left out.
    """
    lengths, sizes, at = (n_first, n_second), (first, second), [0, 0]
    chunks = []
    which = 0
    while at[0] < n_first or at[1] < n_second:
        alone = at[1 - which] >= lengths[1 - which]
        end = lengths[which] if alone else min(at[which] + sizes[which], lengths[which])
        if end > at[which]:
            chunks.append((which, at[which], end))
        at[which] = end
        which = 1 - which
    return chunks


class ChunkLayoutOptions(UnitLayoutOptions):
    """Chunks of text and of units in turn; no word times are needed."""

    name: Literal["glm-4-voice", "llama-omni2", "cosyvoice2"] = "glm-4-voice"
    """Which layout this is."""
    text_chunk: int = Field(default=13, ge=1)
    """Text tokens in a chunk (glm-4-voice 13, llama-omni2 3, cosyvoice2 5)."""
    speech_chunk: int = Field(default=26, ge=1)
    """Units in a chunk (glm-4-voice 26, llama-omni2 10, cosyvoice2 15)."""
    deduplicate: bool = False
    """Each unit once however long it lasts; false: one unit a frame, as all three have it."""
    end_beside: bool = True
    """The text's end stands beside the unit that follows, and takes no position (glm-4-voice; the other two: a position)."""
    learn_text: bool = True
    """Whether text is to be predicted (glm-4-voice), or is given (the others, where another LM writes it)."""
    fill: bool = False
    """After a full chunk of units, predict FILL (cosyvoice2)."""
    chunked_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the rows in chunks; in the others the whole text comes first (cosyvoice2: 0.5)."""
    min_ratio: float = Field(default=0.0, ge=0)
    """Rows with no more units for each text token than this are not laid out in chunks (cosyvoice2: 3)."""
    seed: int = 0
    """Of the draw which rows are in chunks; it depends on the row's id alone besides."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "llama-omni2": {"text_chunk": 3, "speech_chunk": 10, "end_beside": False, "learn_text": False},
        "cosyvoice2": {
            "text_chunk": 5,
            "speech_chunk": 15,
            "end_beside": False,
            "learn_text": False,
            "fill": True,
            "chunked_share": 0.5,
            "min_ratio": 3.0,
        },
    }


class ChunkLayout(UnitLayout):
    """Chunks of text and units."""

    specials = (("bos", "end"), ("eos", "fill"))
    text_marks = ("bos", "end")
    options: ChunkLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        if self.options.fill and self.options.end_beside:
            raise UserError("fill stands beside the text's end: set end_beside to false")

    def text_chunk(self, example: Example) -> int:
        """Text tokens in a chunk; all of them, and the end, where a row is not laid out in chunks."""
        options, n_text = self.options, sum(map(len, example.words))
        drawn = generator(example.id, options.seed).random() < options.chunked_share
        enough = len(self.units(example)) > options.min_ratio * n_text
        return options.text_chunk if drawn and enough else n_text + 1

    def apply(self, example: Example) -> Sequence:
        return self.lay_out(example, self.text_chunk(example))

    def lay_out(self, example: Example, text_chunk: int) -> Sequence:
        options, text, units = self.options, join(example.words), self.units(example)
        stream = Stream(self.rows)
        stream.mark(0, "bos", learnt=False)
        shifted, full, said = 0, False, False
        # Each stream has one more than its ids: its end.
        for which, start, end in alternate(len(text) + 1, len(units) + 1, text_chunk, options.speech_chunk):
            if which == 1:
                stream.put(1, units[start:end])
                said = end > len(units)
                full = not said and end - start == options.speech_chunk
                if said:
                    stream.mark(1, "eos")
                continue
            if options.fill and full:
                stream.beside(1, "fill")
            stream.put(0, text[start:end], options.learn_text)
            shifted += len(text[start:end]) if said else 0
            if end > len(text):
                put = stream.beside if options.end_beside and not said else stream.mark
                put(0, "end", options.learn_text)
        return stream.sequence(example, shifted)

    def prompt(self, example: Example, max_s: float) -> Script:
        """Words without speech are said, no more and no less. After speech, text goes on where the model has learnt it."""
        return Script(lambda script: self._speak(script, example, max_s))

    def _speak(self, script: Script, example: Example, max_s: float) -> Iterator[np.ndarray]:
        options, (text_row, unit_row) = self.options, self.rows
        text, heard = join(example.words), self.units(example).tolist()
        goes_on = options.learn_text and len(heard) > 0
        left = [round(max_s * WORDS_PER_S) if goes_on else len(text), max(self.max_units(max_s), len(heard))]
        beside = self.one(0, NOTHING)  # what the next position holds besides
        ended = [False, False]
        yield self.mark(0, "bos")
        drawn_before = False
        while not all(ended):
            n = 0
            while not ended[0] and (ended[1] or n < options.text_chunk):
                n += 1
                if text:
                    token = text.pop(0)
                elif not goes_on or left[0] <= 0:
                    token = text_row.special("end")
                else:
                    begins = self.vocabulary.starts_word
                    allowed = begins | self.vocabulary.continues_word if drawn_before else begins
                    token, drawn_before = script.draw(0, text_row.allow(allowed, "end")), True
                left[0] -= 1
                ended[0] = token == text_row.special("end")
                if ended[0] and options.end_beside and not ended[1]:
                    beside[0] = token
                    break
                beside[0] = token
                yield beside
                beside = self.one(0, NOTHING)
            n = 0
            while not ended[1] and (ended[0] or n < options.speech_chunk):
                n += 1
                if heard:
                    unit = heard.pop(0)
                elif left[1] <= 0:
                    unit = unit_row.special("eos")
                else:
                    unit = script.draw(1, unit_row.allow(True, *(("eos",) if ended[0] else ())))
                left[1] -= 1
                ended[1] = unit == unit_row.special("eos")
                beside[1] = unit
                yield beside
                beside = self.one(0, NOTHING)
            if options.fill and not ended[1] and n == options.speech_chunk:
                beside[1] = unit_row.special("fill")
