"""A text row beside delayed codec rows: one position a codec frame (Moshi's inner monologue, arXiv 2410.00037).

The text row holds each word's tokens from the frame in which it starts, EPAD on the frame before where that is free, and PAD
elsewhere. With `hello how` at 0.10 s and 0.70 s, 12.5 frames a second, `hello` = hel lo, delays 0 and 1:

    position    0    1    2    3    4    5    6    7    8    9    10    11
    text        BOS  EPAD hel  lo   PAD  PAD  PAD  PAD  EPAD how  EOS   -
    codec_0     PAD  a0   a1   a2   a3   a4   a5   a6   a7   a8   PAD   PAD
    codec_1     PAD  PAD  b0   b1   b2   b3   b4   b5   b6   b7   b8    PAD

Nothing is lost, unlike in the systems this comes from: words said faster than one token a frame push each other back (and are
counted), text that outlasts the sound lengthens the sequence, and so do the delayed rows' last codes.
"""

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Sized
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts.base import (
    NOTHING,
    Draw,
    Example,
    Layout,
    LayoutOptions,
    Parts,
    Prompt,
    Row,
    Sequence,
    Vocabulary,
    finish,
)


class TimedLayoutOptions(LayoutOptions):
    """What layouts with a text row in step with codec frames can be told."""

    codebooks: int | None = Field(default=None, ge=1)
    """Use only the first codebooks; null uses all."""
    acoustic_delay: int = Field(default=1, ge=0)
    """Frames by which every codebook after the first is late (Moshi: 1). Not used where `delays` is given."""
    delays: tuple[int, ...] | None = None
    """Frames by which each codebook is late, one number a codebook, such as 0, 1, 2, 3 (MusicGen's)."""
    text_ahead_s: float = 0.0
    """Seconds by which text runs ahead of the sound; negative: behind."""
    pad_weight: float = Field(default=0.5, ge=0)
    """Weight of PAD and EPAD among the text labels (Moshi: 0.5)."""
    first_codebook_weight: float = Field(default=1.0, ge=0)
    """Weight of the first codebook among the speech labels (Moshi, whose first codebook is semantic: 100)."""
    prompt_max_gap_s: float = Field(default=1.0, ge=0)
    """When speaking a prompt: seconds of PAD between words after which the next word is said whatever the model wants."""


class CodecLayoutOptions(TimedLayoutOptions):
    """A text row in step with codec frames, beside one delayed row a codebook."""

    name: Literal["codec"] = "codec"
    """Which layout this is."""


def text_frames(words: Sized[Sized[int]], starts_s: np.ndarray, rate_hz: float, last: int) -> tuple[list[int], int]:
    """The frame of every text token, strictly rising, and how many of them are later than their word asks for.

    A word starts in the frame that its start falls in, or after the tokens before it, and no later than frame `last`.
    """
    frames: list[int] = []
    shifted = 0
    for word, start_s in zip(words, starts_s, strict=True):
        # The tolerance keeps 0.16 s at 12.5 Hz in frame 2 although 0.16 as float32 is a little less.
        own = min(max(int(np.floor(start_s * rate_hz + 1e-4)), 0), last)
        first = max(own, frames[-1] + 1) if frames else own
        frames.extend(range(first, first + len(word)))
        shifted += len(word) if first > own else 0
    return frames, shifted


class CodecLayout(Layout):
    """Text, and K rows of codec codes, each late by its delay. `Example.codes` is `[K, T]`."""

    kinds = ("codec",)
    options: TimedLayoutOptions
    silence = ""
    """The special of frames without a code, where the layout has such frames."""

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        sizes = self.card.sizes[: self.options.codebooks]
        text = Row("text", vocabulary.size, ("pad", "epad", "eos", "bos"))
        self.rows = (text, *(Row(f"codec_{k}", size, ("pad",)) for k, size in enumerate(sizes)))
        self.pads = np.array([row.special("pad") for row in self.rows], dtype=np.int64)
        delays = self.options.delays or (0, *[self.options.acoustic_delay] * (len(sizes) - 1))
        if len(delays) != len(sizes) or list(delays) != sorted(delays) or delays[0] != 0:
            raise UserError(
                f"delays {list(delays)}: give {len(sizes)} numbers, from 0 upwards, for {len(sizes)} codebooks"
            )
        self.delays = delays
        self.learnt = (True,) * len(delays)

    @property
    def silences(self) -> np.ndarray:
        """Int64 `[K]`: what stands for no code, in each row."""
        return np.array([row.special(self.silence) for row in self.rows[1:]], dtype=np.int64)

    def no_codes(self) -> np.ndarray:
        return np.zeros((len(self.delays), 0), dtype=np.int64)

    def text_row(self, example: Example, n_frames: int) -> tuple[np.ndarray, int]:
        """Text ids int64 `[L]`, L >= `n_frames`, without BOS and EOS; and how many tokens are late."""
        row = self.rows[0]
        starts_s = example.starts_s - self.options.text_ahead_s
        frames, shifted = text_frames(example.words, starts_s, self.card.rate_hz, n_frames)
        ids = np.full(max(n_frames, frames[-1] + 1 if frames else 0), row.special("pad"), dtype=np.int64)
        ids[frames] = [token for word in example.words for token in word]
        at = 0
        for word in example.words:
            before = frames[at] - 1
            if before >= 0 and ids[before] == row.special("pad"):
                ids[before] = row.special("epad")
            at += len(word)
        return ids, shifted

    def apply(self, example: Example) -> Sequence:
        n_codebooks = len(self.delays)
        if len(example.codes) < n_codebooks:
            raise ValueError(f"row {example.id}: {len(example.codes)} codebooks, and the layout takes {n_codebooks}")
        codes = example.codes[:n_codebooks]
        n_frames = codes.shape[1]
        text, shifted = self.text_row(example, n_frames)
        # One position before the first frame, and then whichever ends last: text and its EOS, or the last delayed code.
        n_positions = 1 + max(len(text) + 1, n_frames + max(self.delays))
        inputs = np.tile(self.pads, (n_positions, 1))
        learnt = np.zeros(inputs.shape, dtype=bool)
        weights = np.ones(inputs.shape, dtype=np.float32)
        inputs[:, 0] = NOTHING
        inputs[0, 0] = self.rows[0].special("bos")
        inputs[1 : 1 + len(text), 0] = text
        inputs[1 + len(text), 0] = self.rows[0].special("eos")
        learnt[1 : 2 + len(text), 0] = True
        weights[1 : 1 + len(text), 0] = np.where(text >= self.vocabulary.size, self.options.pad_weight, 1.0)
        for k, delay in enumerate(self.delays):
            here = slice(1 + delay, 1 + delay + n_frames)
            inputs[here, 1 + k] = codes[k]
            learnt[here, 1 + k] = self.learnt[k]
        weights[:, 1] = self.options.first_codebook_weight
        if self.silence:
            silent = inputs[:, 1:] == NOTHING
            inputs[:, 1:][silent] = np.broadcast_to(self.silences, silent.shape)[silent]
            weights[:, 1:][silent] *= self.options.pad_weight
        return finish(inputs, learnt, weights, shifted, example)

    def kept(self, example: Example) -> Parts:
        return Parts(example.words, example.codes[: len(self.delays)])

    def undo(self, inputs: np.ndarray) -> Parts:
        text = inputs[:, 0]
        n_frames = int(((inputs[:, 1] != self.pads[1]) & (inputs[:, 1] != NOTHING)).sum())
        codes = np.stack([inputs[1 + d : 1 + d + n_frames, 1 + k] for k, d in enumerate(self.delays)])
        codes[codes >= self.pads[1:, None]] = NOTHING
        words = self.vocabulary.split(text[(text >= 0) & (text < self.vocabulary.size)])
        return Parts(words, codes)

    def prompt(self, example: Example, max_s: float) -> "CodecPrompt":
        return CodecPrompt(self, example, max(1, round(max_s * self.card.rate_hz)))


class CodecPrompt(Prompt):
    """Sampling frame by frame.

    Where codes are given (a prefix of real speech), the text of those frames is given with them. After that the words that
    are left are said in order: the model chooses when, by leaving PAD, unless it stays silent for `prompt_max_gap_s`. Then
    text is drawn too, until the model draws EOS or the time is up, and the delayed rows are drawn to their ends.
    """

    def __init__(self, layout: CodecLayout, example: Example, max_frames: int) -> None:
        self.layout = layout
        self.given = example.codes[: len(layout.delays)]
        n_given = self.given.shape[1]
        self.text = deque[int]()
        self.words = deque(example.words)
        if n_given:
            begun = (example.starts_s - layout.options.text_ahead_s) * layout.card.rate_hz < n_given
            n_heard = int(begun.sum())
            heard = Example(example.words[:n_heard], example.starts_s[:n_heard], example.codes)
            self.text.extend(layout.text_row(heard, n_given)[0].tolist())
            self.words = deque(example.words[n_heard:])
        self.n_frames = max(max_frames, n_given)
        self.max_gap = round(layout.options.prompt_max_gap_s * layout.card.rate_hz)
        self.gap = 0
        self.position = 0
        self.before = layout.rows[0].special("bos")
        self.given_before = True

    def next(self, draw: Draw) -> np.ndarray | None:
        frame, layout = self.position - 1, self.layout
        self.position += 1
        if frame >= self.n_frames + max(1, *layout.delays):
            return None
        ids = layout.pads.copy()
        if frame < 0:
            ids[0] = layout.rows[0].special("bos")
            return ids
        ids[0] = self.before = self._text(draw, frame)
        if ids[0] == layout.rows[0].special("eos"):
            self.n_frames = frame
        for k, delay in enumerate(layout.delays):
            at = frame - delay
            if 0 <= at < self.given.shape[1]:
                ids[1 + k] = self.given[k, at] if self.given[k, at] != NOTHING else layout.silences[k]
            elif 0 <= at < self.n_frames and layout.learnt[k]:
                silence = (layout.silence,) if layout.silence else ()
                ids[1 + k] = draw(1 + k, layout.rows[1 + k].allow(True, *silence))
            elif 0 <= at < self.n_frames:
                ids[1 + k] = layout.silences[k]  # nobody says anything to the model while it speaks
        return ids

    def _text(self, draw: Draw, frame: int) -> int:
        row = self.layout.rows[0]
        pad, epad, eos = row.special("pad"), row.special("epad"), row.special("eos")
        if frame >= self.n_frames:
            return eos if frame == self.n_frames else NOTHING
        if self.text:
            return self.text.popleft()
        chosen = draw(0, self._allowed())
        self.given_before = bool(self.words)
        if not self.words:
            return chosen
        if chosen == pad and self.gap < self.max_gap:
            self.gap += 1
            return pad
        # After PAD a word is always announced by EPAD; after another word, or at the start, it need not be.
        announced = chosen >= row.size or self.gap > 0
        self.gap = 0
        self.text.extend(self.words.popleft())
        return epad if announced else self.text.popleft()

    def _allowed(self) -> np.ndarray:
        """What `text_row` could put after `self.before`: a word begins at the start, after EPAD or right after another word."""
        row, vocabulary = self.layout.rows[0], self.layout.vocabulary
        end = () if self.words else ("eos",)
        if self.before == row.special("epad"):
            return row.allow(vocabulary.starts_word)
        if self.before == row.special("pad"):
            return row.allow(False, "pad", "epad", *end)
        tokens = vocabulary.starts_word
        if self.before < row.size and not self.given_before:
            tokens = tokens | vocabulary.continues_word  # a given word is whole; one that the model says may go on
        return row.allow(tokens, "pad", "epad", *end)
