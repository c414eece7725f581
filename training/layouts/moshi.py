"""Moshi's two speakers (arXiv 2410.00037, 2.0): one's text and codes, and the other's codes, all in time.

          0    1    2    3    4    5    6          position 0: before the first frame
    text  BOS  E    hel  lo   P    P    E          the main speaker's words, as in the layout codec
    m_0   P    S0   S1   S2   S3   S4   S5
    m_1   P    P    A0   A1   A2   A3   A4         acoustic delay 1, for each speaker alike
    u_0   P    s0'  s1'  s2'  s3'  s4'  s5'        the other speaker is heard, and not learnt
    u_1   P    P    a0'  a1'  a2'  a3'  a4'

An example is a dialogue, its turns one after the other, or the channels of one recording. Frames in which a speaker has no codes
are a special, `silence`, which is learnt like a code: that is how the model knows when it is its turn.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from schemas import Tokenizer
from training.layouts.base import NOTHING, Example, LayoutOptions, Row, Vocabulary
from training.layouts.codec import CodecLayout, TimedLayoutOptions
from training.layouts.dialogue import COLUMNS, Encode, grouped


class MoshiLayoutOptions(TimedLayoutOptions):
    """A text row and two speakers' codec rows, in step with codec frames."""

    name: Literal["moshi"] = "moshi"
    """Which layout this is."""
    first_codebook_weight: float = 100.0
    """Weight of the first codebook, of meaning rather than sound in Moshi's codec, among the speech labels."""
    main_role: str = "assistant"
    """Who says the text, in a dialogue."""
    main_channel: int = 0
    """Who says the text, where each channel of a recording is a speaker (Moshi: the left one)."""
    learn_other: bool = False
    """Whether the other speaker's codes are to be predicted, too."""


class MoshiLayout(CodecLayout):
    """Text, K rows of the main speaker, K of the other. `Example.codes` is `[2 K, T]`, NOTHING where one is silent."""

    options: MoshiLayoutOptions
    silence = "silence"

    def __init__(self, options: LayoutOptions, vocabulary: Vocabulary, cards: Mapping[str, Tokenizer]) -> None:
        super().__init__(options, vocabulary, cards)
        text, *codes = self.rows
        self.rows = (
            text,
            *(Row(f"{who}_{k}", row.size, ("pad", "silence")) for who in "mu" for k, row in enumerate(codes)),
        )
        self.pads = np.array([row.special("pad") for row in self.rows], dtype=np.int64)
        self.delays = self.delays * 2
        self.learnt = (True,) * len(codes) + (self.options.learn_other,) * len(codes)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*super().columns, *COLUMNS)

    def example(self, row: dict[str, Any], encode: Encode) -> Example:
        """One row: the main speaker's, and the other is silent."""
        return self._timeline([super().example(row, encode)], [0], [0])

    def examples(self, rows: Iterable[dict[str, Any]], encode: Encode) -> Iterator[Example]:
        """Raises ValueError for a row that is neither a turn nor one channel of several."""
        for group in grouped(rows, lambda row: (row["dialogue_id"], row["group_id"])):
            first = group[0]
            if not first["dialogue_id"] and first["channel"] < 0:
                raise ValueError(
                    f"row {first['id']} is neither a dialogue's nor one of several channels, which layout {self.name} needs: "
                    "make the corpus with `antiphon dialogues`, or from recordings of two speakers with decode.channels = split"
                )
            parts = [super(MoshiLayout, self).example(row, encode) for row in group]
            if first["dialogue_id"]:
                speakers = [int(row["role"] != self.options.main_role) for row in group]
                starts = np.cumsum([0, *(part.codes.shape[1] for part in parts)])[:-1].tolist()
            else:
                speakers = [int(row["channel"] != self.options.main_channel) for row in group]
                began_s = min(row["start_s"] for row in group)
                starts = [round((row["start_s"] - began_s) * self.card.rate_hz) for row in group]
            yield self._timeline(parts, speakers, starts)

    def _timeline(self, parts: list[Example], speakers: list[int], starts: list[int]) -> Example:
        """Utterances of speaker 0 (main) or 1 from frame `starts`, later where the speaker's one before has not ended."""
        n_codebooks = len(self.delays) // 2
        busy, at = [0, 0], []
        for part, speaker, start in sorted(zip(parts, speakers, starts, strict=True), key=lambda said: said[2]):
            begin = max(start, busy[speaker])
            busy[speaker] = begin + part.codes.shape[1]
            at.append((part, speaker, begin))
        codes = np.full((2 * n_codebooks, max(busy)), NOTHING, dtype=np.int64)
        words, starts_s, ends_s = [], [np.zeros(0)], [np.zeros(0)]
        for part, speaker, begin in at:
            rows = slice(speaker * n_codebooks, (speaker + 1) * n_codebooks)
            codes[rows, begin : begin + part.codes.shape[1]] = part.codes[:n_codebooks]
            if speaker == 0:
                words += part.words
                starts_s.append(part.starts_s + begin / self.card.rate_hz)
                ends_s.append(part.ends_s + begin / self.card.rate_hz)
        seconds = codes.shape[1] / self.card.rate_hz
        return Example(words, np.concatenate(starts_s), codes, parts[0].id, seconds, np.concatenate(ends_s))
