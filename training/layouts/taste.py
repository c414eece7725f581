"""TASTE fused: each text token beside the speech codes of the word before (TASLM, arXiv 2504.07053).

One position a text token. A word's codes R0..Rn stand one WORD later, at the first token of the next word, so that the model
has said the word before it chooses how the word sounds. `I like cats`, tokens I | like | c ats, codes C0 C1 C2:

    position        0    1      2     3    4     5
    text in         BOS  I      like  c    ats   PAD
    speech in       -    PAD    C0    C1   (C1)  C2         (C1): `fill_forward`
    text label      I    like   c     ats  (PAD) -          (PAD): `learn_end`
    speech label    -    C0     C1    -    C2    -
"""

from collections import deque
from collections.abc import Mapping
from typing import Literal

import numpy as np

from schemas import Tokenizer
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

WORDS_PER_S = 2.5
"""Words in a second of read English (1,166 words in 474.5 s of LibriSpeech test-other), since this layout has no clock."""


class TasteLayoutOptions(LayoutOptions):
    """Text tokens fused with the TASTE codes of the word before: as many positions as text tokens."""

    name: Literal["taste"] = "taste"
    """Which layout this is."""
    fill_forward: bool = True
    """Repeat a word's codes at the further tokens of the next word, as TASLM does, instead of feeding nothing there."""
    learn_end: bool = True
    """Learn to follow the last word by PAD, so that sampling knows where to end (TASLM leaves the end to the sampler)."""


class TasteLayout(Layout):
    """Text, and R rows of TASTE codes one word later. `Example.codes` is `[W, R]`."""

    kinds = ("taste",)
    text_marks = ("bos", "pad")
    options: TasteLayoutOptions

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        text = Row("text", vocabulary.size, ("pad", "bos"))
        self.rows = (text, *(Row(f"taste_{r}", size, ("pad",)) for r, size in enumerate(self.card.sizes)))
        self.pads = np.array([row.special("pad") for row in self.rows], dtype=np.int64)

    def no_codes(self) -> np.ndarray:
        return np.zeros((0, len(self.rows) - 1), dtype=np.int64)

    def apply(self, example: Example) -> Sequence:
        words, codes = example.words, example.codes
        if len(words) != len(codes):
            raise ValueError(f"row {example.id}: {len(words)} words but {len(codes)} tuples of TASTE codes")
        n_tokens = sum(map(len, words))
        inputs = np.full((n_tokens + 2, len(self.rows)), NOTHING, dtype=np.int64)
        learnt = np.zeros(inputs.shape, dtype=bool)
        inputs[0, 0] = self.rows[0].special("bos")
        at = 1
        for w, word in enumerate(words):
            inputs[at : at + len(word), 0] = word
            before = self.pads[1:] if w == 0 else codes[w - 1]
            inputs[at : at + (len(word) if self.options.fill_forward else 1), 1:] = before
            learnt[at : at + len(word), 0] = True
            learnt[at, 1:] = w > 0
            at += len(word)
        inputs[at, 0] = self.pads[0]
        inputs[at, 1:] = codes[-1] if len(codes) else self.pads[1:]
        learnt[at, 0] = self.options.learn_end
        learnt[at, 1:] = len(codes) > 0
        return finish(inputs, learnt, np.ones(inputs.shape, dtype=np.float32), 0, example)

    def undo(self, inputs: np.ndarray) -> Parts:
        """Words without codes (the last, where sampling stopped at it) are left out."""
        text = inputs[:, 0]
        token = (text >= 0) & (text < self.vocabulary.size)
        words = self.vocabulary.split(text[token])
        # Codes are new where a word begins and at the closing PAD; what `fill_forward` repeats is not.
        new = token.copy()
        new[token] = self.vocabulary.starts_word[text[token]]
        new |= text == self.pads[0]
        new &= (inputs[:, 1:] >= 0).all(axis=1) & (inputs[:, 1:] < self.pads[1:]).all(axis=1)
        codes = inputs[new, 1:]
        return Parts(words[: len(codes)], codes)

    def prompt(self, example: Example, max_s: float) -> "TastePrompt":
        return TastePrompt(self, example, max(1, round(max_s * WORDS_PER_S)))


class TastePrompt(Prompt):
    """Given words are forced, and so are given codes; codes of further words, and then more words, are drawn."""

    def __init__(self, layout: TasteLayout, example: Example, max_words: int) -> None:
        self.layout = layout
        self.text = deque(token for word in example.words for token in word)
        self.codes = deque(example.codes)
        self.max_words = max(max_words, len(example.words))
        self.began = self.ended = self.goes_on = False
        self.n_words = 0
        self.last = layout.pads[1:]

    def next(self, draw: Draw) -> np.ndarray | None:
        if self.ended:
            return None
        text_row, *speech_rows = self.layout.rows
        ids = np.full(len(self.layout.rows), NOTHING, dtype=np.int64)
        if not self.began:
            self.began = True
            ids[0] = text_row.special("bos")
            return ids
        given = bool(self.text)
        token = self.text.popleft() if given else draw(0, self._allowed())
        starts = token >= text_row.size or self.n_words == 0 or bool(self.layout.vocabulary.starts_word[token])
        self.ended = token >= text_row.size or (starts and self.n_words == self.max_words)
        ids[0] = text_row.special("pad") if self.ended else token
        if starts and self.n_words > 0:
            if self.codes:
                self.last = np.asarray(self.codes.popleft(), dtype=np.int64)
            else:
                self.last = np.array([draw(r, row.allow(True)) for r, row in enumerate(speech_rows, 1)], dtype=np.int64)
        self.n_words += starts and not self.ended
        self.goes_on = not given
        if starts or self.layout.options.fill_forward:
            ids[1:] = self.last
        return ids

    def _allowed(self) -> np.ndarray:
        """The beginning of a word, or, in a word that the model says, any text token; and the end where it was learnt."""
        vocabulary = self.layout.vocabulary
        in_words = vocabulary.starts_word | (self.goes_on & vocabulary.continues_word)
        return self.layout.rows[0].allow(in_words, *(("pad",) if self.layout.options.learn_end else ()))
