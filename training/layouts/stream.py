"""One stream: every position holds one id, of the text row or of a speech row. What the layouts of this form share."""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Sized
from typing import Any, ClassVar

import numpy as np

from schemas import Tokenizer
from training.layouts.base import (
    NOTHING,
    Example,
    Layout,
    LayoutOptions,
    Parts,
    Row,
    Script,
    Sequence,
    Vocabulary,
    finish,
)

WORDS_PER_S = 2.5
"""Words in a second of read English (1,166 words in 474.5 s of LibriSpeech test-other), where a layout has no clock."""


class Stream:
    """A sequence as it is put down, position by position."""

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self.rows = rows
        self._parts: list[tuple[int, np.ndarray, bool | np.ndarray]] = []
        self._beside: list[tuple[int, int, int, bool]] = []
        self.n = 0

    def put(self, row: int, ids: Sized[int] | np.ndarray, learnt: bool | np.ndarray = True) -> None:
        """Positions of ids of one row, `[n]`, or of r rows from that one on, `[n, r]`; `learnt`: whether to predict them."""
        values = np.asarray(ids, dtype=np.int64)
        self._parts.append((row, values[:, None] if values.ndim == 1 else values, learnt))
        self.n += len(values)

    def mark(self, row: int, special: str, learnt: bool = True) -> None:
        """A position that holds a special."""
        self.put(row, [self.rows[row].special(special)], learnt)

    def beside(self, row: int, special: str, learnt: bool = True) -> None:
        """A special beside whatever the next position holds, in another row."""
        self._beside.append((self.n, row, self.rows[row].special(special), learnt))

    def sequence(self, example: Example, shifted: int = 0, dropped: int = 0) -> Sequence:
        inputs = np.full((self.n, len(self.rows)), NOTHING, dtype=np.int64)
        learnt = np.zeros(inputs.shape, dtype=bool)
        at = 0
        for row, ids, is_learnt in self._parts:
            here = slice(at, at + len(ids)), slice(row, row + ids.shape[1])
            inputs[here], learnt[here] = ids, is_learnt
            at += len(ids)
        for position, row, special, is_learnt in self._beside:
            inputs[position, row], learnt[position, row] = special, is_learnt
        laid = finish(inputs, learnt, np.ones(inputs.shape, dtype=np.float32), shifted, example)
        laid.dropped = dropped
        return laid


class StreamLayout(Layout):
    """A layout of one stream. `specials`: those of each row."""

    specials: ClassVar[tuple[tuple[str, ...], ...]]

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        speech = [(kind, self.cards[kind].sizes[0]) for kind in self.kinds]
        names = [("text", vocabulary.size), *speech]
        self.rows = tuple(Row(*named, specials) for named, specials in zip(names, self.specials, strict=True))

    def undo(self, inputs: np.ndarray) -> Parts:
        tokens = [inputs[:, r][(inputs[:, r] >= 0) & (inputs[:, r] < row.size)] for r, row in enumerate(self.rows)]
        units = tokens[1] if self.kinds[:1] == ("units",) else np.zeros(0, dtype=np.int64)
        return Parts(self.vocabulary.split(tokens[0]), self.no_codes(), units)

    def text_stream(self, example: Example) -> Stream:
        """BOS, the words, EOS."""
        stream = Stream(self.rows)
        stream.mark(0, "bos", learnt=False)
        stream.put(0, join(example.words))
        stream.mark(0, "eos")
        return stream

    def text_prompt(self, example: Example, max_s: float) -> Script:
        """The beginning of such a stream, to be continued."""
        return Script(lambda script: self._say_text(script, example, round(max_s * WORDS_PER_S)))

    # What follows is for sampling: generators of positions, for a Script.

    def _say_text(self, script: Script, example: Example, n: int) -> Iterator[np.ndarray]:
        yield self.mark(0, "bos")
        yield from self.force(0, join(example.words))
        yield from self.go_on(script, 0, n, "eos")

    def one(self, row: int, token: int) -> np.ndarray:
        """A position `[R]` that holds one id."""
        ids = np.full(len(self.rows), NOTHING, dtype=np.int64)
        ids[row] = token
        return ids

    def mark(self, row: int, special: str) -> np.ndarray:
        return self.one(row, self.rows[row].special(special))

    def force(self, row: int, ids: Iterable[Any]) -> Iterator[np.ndarray]:
        for token in ids:
            yield self.one(row, int(token))

    def go_on(self, script: Script, row: int, n: int, end: str) -> Iterator[np.ndarray]:
        """Draw ids of a row until the special `end`, which comes of itself after `n` of them at the most."""
        vocabulary, its = self.vocabulary, self.rows[row]
        tokens: Any = vocabulary.starts_word if row == 0 else True
        for _ in range(n):
            drawn = script.draw(row, its.allow(tokens, end))
            yield self.one(row, drawn)
            if drawn == its.special(end):
                return
            if row == 0:
                tokens = vocabulary.starts_word | vocabulary.continues_word
        yield self.mark(row, end)


def frame_by_frame(codes: np.ndarray) -> np.ndarray:
    """Codes `[K, T]` one a position, all codebooks of a frame and then the next frame: int64 `[T K, K]`, NOTHING elsewhere."""
    n_codebooks, n_frames = codes.shape
    positions = np.full((n_frames, n_codebooks, n_codebooks), NOTHING, dtype=np.int64)
    positions[:, np.arange(n_codebooks), np.arange(n_codebooks)] = codes.T
    return positions.reshape(n_frames * n_codebooks, n_codebooks)


def join(words: Iterable[Iterable[int]]) -> list[int]:
    """The ids of all words."""
    return [token for word in words for token in word]
