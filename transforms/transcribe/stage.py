"""Transcribe every utterance of a Block, in batches."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from pydantic import Field

from schemas import Block, Utterance
from transforms.batching import map_batches
from transforms.options import Options
from transforms.registry import load
from transforms.resample import resample
from transforms.stage import Stage
from transforms.weights import locate

RATE_HZ = 16000

BACKENDS = {
    "whisper": "transforms.transcribe.whisper:WhisperRecogniser",
    "moonshine": "transforms.transcribe.moonshine:MoonshineRecogniser",
}


class TranscribeOptions(Options):
    """Which recogniser writes the text, and when it tries again. The defaults are openai-whisper's own."""

    backend: Literal["whisper", "moonshine", "given"] = "whisper"
    """"whisper"; "moonshine" (English, its weights come with the moonshine-voice package); or "given": the manifest's `text`."""
    model: str = "whisper-tiny"
    """Whisper checkpoint: a name that `antiphon pull` knows, or a path. Moonshine has one model and ignores it."""
    language: str | None = None
    """ISO 639-1 code of all the audio; null detects it for each utterance."""
    keep_given: bool = False
    """Take the manifest's `text` where it has one, and recognise only the rest."""
    batch_size: int = Field(16, ge=1)
    """Utterances decoded together."""
    beam_size: int | None = Field(None, ge=1)
    """Beams at temperature 0; null decodes greedily."""
    temperatures: tuple[float, ...] = Field((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), min_length=1)
    """Tried in order while a transcript fails one of the two thresholds below."""
    compression_ratio_threshold: float = 2.4
    """Above it the text repeats itself: try the next temperature."""
    logprob_threshold: float = -1.0
    """Mean token log-probability below it is too unsure: try the next temperature."""
    no_speech_threshold: float = 0.6
    """Above it, with a log-probability below its threshold, there is no speech: the text is empty."""


@dataclass(frozen=True)
class Transcript:
    """What a recogniser says of one utterance; None where it does not know."""

    text: str
    language: str
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    temperature: float | None = None
    language_prob: float | None = None
    """Of `language`, where the recogniser found it out itself."""


class Recogniser(Protocol):
    """A backend: constructed from its options, which loads its model."""

    name: str

    def transcribe(self, batch: Sequence[np.ndarray], languages: Sequence[str | None], seed: int) -> list[Transcript]:
        """B float32 `[n]` arrays at 16 kHz, up to 30 s each -> B transcripts. The same batch and seed give the same text."""
        ...


class Transcribe(Stage):
    """Sets `text`, `language` and the `asr_*` columns. An utterance without a word keeps an empty text, for `filter` to reject."""

    name = "transcribe"
    version = 2

    def __init__(self, options: TranscribeOptions) -> None:
        super().__init__(options)
        self._options = options
        self._recogniser: Recogniser | None = None

    def setup(self) -> None:
        """Raises MissingWeights where the checkpoint is not on this machine."""
        if self._options.backend != "given":
            self._recogniser = load(BACKENDS, self._options.backend, "transcribe.backend")(self._options)

    def weights(self) -> dict[str, str]:
        return {self._options.model: locate(self._options.model).sha256} if self._options.backend == "whisper" else {}

    def __call__(self, block: Block) -> Block:
        for utterance in block.utterances:
            if self._takes_given(utterance):
                utterance.text = " ".join(str(utterance.given.get("text") or "").split())
                utterance.language = utterance.language or self._options.language or "en"
        waiting = Block(block.index, block.rate_hz)
        waiting.utterances = [u for u in block.utterances if not self._takes_given(u)]
        if waiting.utterances:
            map_batches(waiting, self.name, self._transcribe, self._keep, max_items=self._options.batch_size)
            left = {id(u) for u in waiting.utterances}
            block.utterances = [u for u in block.utterances if self._takes_given(u) or id(u) in left]
            block.rejections += waiting.rejections
        return block

    def _takes_given(self, utterance: Utterance) -> bool:
        backend, keep = self._options.backend, self._options.keep_given
        return backend == "given" or (keep and bool(utterance.given.get("text")))

    def _transcribe(self, batch: list[Utterance]) -> list[Transcript]:
        assert self._recogniser is not None
        # Sampling at higher temperatures is random: its seed follows from what is in the batch, and from nothing else.
        seed = int(hashlib.sha256("".join(u.id for u in batch).encode()).hexdigest()[:8], 16)
        samples = [resample(u.samples, u.rate_hz, RATE_HZ) for u in batch]
        languages = [self._options.language or u.language or None for u in batch]
        return self._recogniser.transcribe(samples, languages, seed)

    def _keep(self, utterance: Utterance, transcript: Transcript) -> None:
        assert self._recogniser is not None
        utterance.text = " ".join(transcript.text.split())
        utterance.language = transcript.language
        utterance.columns["asr_model"] = self._recogniser.name
        for name in ("avg_logprob", "no_speech_prob", "compression_ratio", "temperature", "language_prob"):
            value = getattr(transcript, name)
            if value is not None:
                utterance.columns[f"asr_{name}"] = float(value)
