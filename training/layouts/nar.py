"""VALL-E's second stage (arXiv 2301.02111): each further codebook at once, from the text, a prompt, and the codebooks before it.

Codebooks a, b, c of five frames, the first two of them the prompt; P1 and P2 are the specials `[codec_1]` and `[codec_2]`:

              stage 1: b from a                          stage 2: c from a and b
    text      BOS t1  t2  [Speech] .  .  P1 P1 P1        BOS t1  t2  [Speech] .  .  P2 P2 P2
    codec_0   .   .   .   .        a0 a1 a2 a3 a4        .   .   .   .        a0 a1 a2 a3 a4
    codec_1   .   .   .   .        b0 b1 .  .  .         .   .   .   .        b0 b1 b2 b3 b4
    codec_2   .   .   .   .        c0 c1 .  .  .         .   .   .   .        c0 c1 .  .  .
    label                                b2 b3 b4                                  c2 c3 c4

Unlike in all other layouts a label stands at the position of the code that it is, whose row holds nothing there, and every
position sees its whole document. A position's codes are summed, like all rows; the special says which codebook is asked for, in the
place of VALL-E's layer norms that depend on it. An example is laid out in all stages, each a document of its own (VALL-E draws one
of them a step). The first codebook is another model's, of layout `vall-e` with `codebooks: 1`, say.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Tokenizer
from schemas.errors import UserError
from training.layouts.base import (
    IGNORE,
    NOTHING,
    Example,
    Layout,
    LayoutOptions,
    Parts,
    Row,
    Script,
    Sequence,
    Vocabulary,
)
from training.layouts.orders import START
from training.layouts.spans import generator
from training.layouts.stream import join


class NarLayoutOptions(LayoutOptions):
    """The codebooks after the first, each in one pass that sees the whole utterance (VALL-E's second stage)."""

    name: Literal["valle-nar"] = "valle-nar"
    """Which layout this is."""
    codebooks: int | None = Field(default=None, ge=2)
    """Use only the first codebooks; null uses all."""
    prompt_s: float = Field(default=3.0, ge=0)
    """Seconds, at the most, of the utterance's beginning that all codebooks are given of (VALL-E: 3). How many of them, and half
    of the utterance at the most, is drawn for each row, each number as likely: none too, for speech without a prompt."""
    seed: int = 0
    """Of these draws, which depend on it and on the row's id alone."""
    text_weight: float = Field(default=0.0, ge=0)
    """Weight of the mean text loss in the total: no text is learnt."""
    speech_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean speech loss in the total."""


class NarLayout(Layout):
    """BOS, text, [Speech], frames; once for each codebook after the first."""

    kinds = ("codec",)
    in_place = True
    options: NarLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        sizes = self.card.sizes[: self.options.codebooks]
        if len(sizes) < 2:
            raise UserError(f"layout {self.name} predicts the codebooks after the first, and {self.card.name} has one")
        codes = [Row(f"codec_{k}", size, ()) for k, size in enumerate(sizes)]
        stages = [f"[{row.name}]" for row in codes[1:]]
        self.rows = (Row("text", vocabulary.size, ("bos", START, *stages)), *codes)
        self.n_codebooks = len(sizes)

    def prompt_frames(self, example: Example) -> int:
        """How many frames are the prompt."""
        n_frames = example.codes.shape[1]
        most = min(round(self.options.prompt_s * self.card.rate_hz), n_frames // 2)
        return int(generator(example.id, self.options.seed).integers(most + 1))

    def stage(self, words: list[list[int]], codes: np.ndarray, k: int, n_prompt: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels `[S, R]` of codebook k, of codes `[K, T]`; the frames are the last T positions.

        Of the frames after the prompt only the codebooks before k are looked at, and k itself, for the labels.
        """
        text, n_frames = join(words), codes.shape[1]
        first = len(text) + 2
        inputs = np.full((first + n_frames, len(self.rows)), NOTHING, dtype=np.int64)
        labels = np.full_like(inputs, IGNORE)
        row = self.rows[0]
        inputs[:first, 0] = [row.special("bos"), *text, row.special(START)]
        inputs[first:, 1 : 1 + k] = codes[:k].T
        inputs[first : first + n_prompt, 1:] = codes[:, :n_prompt].T
        inputs[first + n_prompt :, 0] = row.special(f"[codec_{k}]")
        labels[first + n_prompt :, 1 + k] = codes[k, n_prompt:]
        return inputs, labels

    def apply(self, example: Example) -> Sequence:
        if len(example.codes) < self.n_codebooks:
            raise ValueError(
                f"row {example.id}: {len(example.codes)} codebooks, and the layout takes {self.n_codebooks}"
            )
        codes, n_prompt = example.codes[: self.n_codebooks], self.prompt_frames(example)
        stages = [self.stage(example.words, codes, k, n_prompt) for k in range(1, self.n_codebooks)]
        inputs, labels = (np.concatenate(parts) for parts in zip(*stages, strict=True))
        documents = np.repeat(np.arange(len(stages)), len(stages[0][0]))
        weights = (labels != IGNORE).astype(np.float32)
        return Sequence(inputs, labels, weights, 0, example.id, example.audio_s, documents=documents)

    def undo(self, inputs: np.ndarray) -> Parts:
        """What is in the last stage: of the last codebook the prompt alone, where its labels have not been put in their places."""
        text = inputs[:, 0]
        last = inputs[np.flatnonzero(text == self.rows[0].special("bos"))[-1] :]
        start = int(np.flatnonzero(last[:, 0] == self.rows[0].special(START))[0])
        return Parts(self.vocabulary.split(last[1:start, 0]), last[start + 1 :, 1:].T.copy())

    def kept(self, example: Example) -> Parts:
        codes = example.codes[: self.n_codebooks].copy()
        codes[-1, self.prompt_frames(example) :] = NOTHING
        return Parts(example.words, codes)

    def prompt(self, example: Example, max_s: float) -> Script:
        """Nothing is drawn one after the other: `training.filling` predicts what is missing. Raises UserError without codes."""
        if not example.codes.shape[1] or not np.isfinite(example.starts_s).all():
            raise UserError(
                f"layout {self.name} fills the further codebooks of speech whose first there is: prompt it with a row and no "
                "words, or let another model speak and this one fill (`antiphon speak MODEL --fill THIS`)"
            )
        return Script(lambda script: iter(self.apply(example).inputs))

    def text_only(self, words: list[list[int]], id: str = "") -> Sequence:
        raise UserError(f"layout {self.name} learns no text, which it sees as a whole: leave out train.text")
