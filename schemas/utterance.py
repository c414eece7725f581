"""One utterance in memory: what a stage reads from and writes to."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

How = Literal["ctc", "gmm", "wildcard", "interpolated", "given"]
"""How a word got its time: by a CTC or GMM aligner, as a wildcard between aligned words, by interpolation, or from the source."""


@dataclass(slots=True)
class Word:
    """A written word and when it is said.

    Attributes:
        text: the word as the transcript spells it, punctuation included, without surrounding white space.
        start_s, end_s: seconds from the start of the utterance, `0 <= start_s <= end_s <= duration_s`.
        score: the aligner's confidence, 0 to 1; 0.0 where there is none.
        how: how the time was got.
    """

    text: str
    start_s: float
    end_s: float
    score: float
    how: How


class Span(NamedTuple):
    """Seconds from the start of the utterance."""

    start_s: float
    end_s: float


@dataclass(slots=True)
class Label:
    """What a classifier says of an utterance as a whole.

    Attributes:
        name: of the classifier, as the config gives it, such as "emotion".
        label: one of its own labels. score: its probability, 0 to 1.
    """

    name: str
    label: str
    score: float


@dataclass(slots=True)
class Utterance:
    """A stretch of one channel of one source, 1 to 30 s of speech, and all that the stages have found out about it.

    Attributes:
        source: the source's name: the path as the config gives it, or the manifest's own id.
        channel: 0-based channel, or -1 for a mix of all of them.
        start, end: samples at `rate_hz` from the start of the source.
        samples: float32 `[end - start]` in -1..1. Set to an empty array once the shard is written.
        rate_hz: the corpus's working rate, the same for every utterance.
        given: what the source's manifest said of it (text, speaker, language, role ...), untouched.
        language: ISO 639-1 code. origin: "human" or "tts". split: "train" or "heldout", by recording.
        text: the transcript. words: its words in order; `" ".join(w.text for w in words)` is `text` with single spaces.
        units, unit_run_lengths: `[U]` de-duplicated SSL units and how many frames each lasts.
        codec_codes: `[K, T]`, undelayed. codec_latents: float16 `[T, d]`, as the codec gives them; codec_latent_variance: the
            same shape, of a VAE's posterior. taste_codes: `[len(words), R]`. taste_latents: float16
            `[len(words), D]`, the vector that each word's codes stand for.
        speaker_embedding: `[D]` of length 1. overlaps: where two or more speak at once, in order.
        labels: by classifier in the order of the config, the likeliest label first.
        columns: named scalars: `asr_*`, `quality_*`, `align_*` (see `schemas.record`).
    """

    source: str
    channel: int
    start: int
    end: int
    samples: np.ndarray
    rate_hz: int
    given: dict[str, Any] = field(default_factory=dict)
    language: str = ""
    origin: Literal["human", "tts"] = "human"
    split: Literal["train", "heldout"] = "train"
    text: str = ""
    words: list[Word] = field(default_factory=list)
    units: np.ndarray | None = None
    unit_run_lengths: np.ndarray | None = None
    codec_codes: np.ndarray | None = None
    codec_latents: np.ndarray | None = None
    codec_latent_variance: np.ndarray | None = None
    taste_codes: np.ndarray | None = None
    taste_latents: np.ndarray | None = None
    speaker_embedding: np.ndarray | None = None
    overlaps: list[Span] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    columns: dict[str, float | int | str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """16 hexadecimal digits: a hash of source, channel, start and end. The same audio keeps its id across runs."""
        key = f"{self.source}\n{self.channel}\n{self.start}\n{self.end}\n{self.rate_hz}"
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def start_s(self) -> float:
        return self.start / self.rate_hz

    @property
    def end_s(self) -> float:
        return self.end / self.rate_hz

    @property
    def duration_s(self) -> float:
        return (self.end - self.start) / self.rate_hz
