"""Transcribe every utterance of a Block, in batches."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from pydantic import Field

from schemas import Block, Utterance
from transforms.batching import map_batches
from transforms.normalize import normalize
from transforms.options import Options
from transforms.registry import load
from transforms.resample import resample
from transforms.stage import Stage
from transforms.weights import locate

if TYPE_CHECKING:
    from transforms.transcribe.language import LanguageJudge

RATE_HZ = 16000

BACKENDS = {
    "whisper": "transforms.transcribe.whisper:WhisperRecogniser",
    "moonshine": "transforms.transcribe.moonshine:MoonshineRecogniser",
    "faster-whisper": "transforms.transcribe.faster_whisper:FasterWhisperRecogniser",
    "transformers": "transforms.transcribe.transformers_asr:transformers_recogniser",
}

Backend = Literal["whisper", "moonshine", "faster-whisper", "transformers"]


class SecondOptions(Options):
    """A second recogniser, whose text is compared with the first's (or with the given one): `asr_text_2` and `asr_agreement`.
    Null, as it is unless set, recognises once."""

    backend: Backend = "moonshine"
    """As transcribe.backend; it should be another kind of model than the first, so that the two err otherwise."""
    model: str = ""
    """As transcribe.model."""


class TranscribeOptions(Options):
    """Which recogniser writes the text, and when it tries again. The defaults are openai-whisper's own."""

    backend: Backend | Literal["given"] = "whisper"
    """"whisper" (openai-whisper); "faster-whisper" (`pip install antiphon[faster-whisper]`: Whisper in CTranslate2's format);
    "transformers" (Hugging Face: Whisper, Moonshine, SpeechT5, or CTC as wav2vec 2.0); "moonshine" (English, its weights come with
    the moonshine-voice package); or "given": the manifest's `text`."""
    model: str = "whisper-tiny"
    """Checkpoint: a name that `antiphon pull` knows, or a path; a folder for faster-whisper and transformers. Moonshine has one
    model and ignores it."""
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
    check_language: str | None = None
    """A multilingual Whisper checkpoint, such as whisper-tiny, that says how likely the audio is in the language that the manifest
    or `language` gave, or else is taken for granted (`asr_given_language_prob`; `filter.min_given_language_prob`). Null does not
    ask."""
    second: SecondOptions | None = None


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
        self._second: Recogniser | None = None
        self._judge: LanguageJudge | None = None

    def setup(self) -> None:
        """Raises MissingWeights where the checkpoint is not on this machine."""
        if self._options.backend != "given":
            self._recogniser = load(BACKENDS, self._options.backend, "transcribe.backend")(self._options)
        second = self._options.second
        if second is not None:
            settings = self._options.model_copy(
                update={"backend": second.backend, "model": second.model, "second": None}
            )
            self._second = load(BACKENDS, second.backend, "transcribe.second.backend")(settings)

        if self._options.check_language is not None:
            from transforms.transcribe.language import LanguageJudge

            self._judge = LanguageJudge(self._options.check_language)

    def weights(self) -> dict[str, str]:
        used = [(self._options.backend, self._options.model)]
        if self._options.second is not None:
            used.append((self._options.second.backend, self._options.second.model))
        if self._options.check_language is not None:
            used.append(("whisper", self._options.check_language))
        return {model: locate(model).sha256 for backend, model in used if backend not in ("given", "moonshine")}

    def __call__(self, block: Block) -> Block:
        if self._second is not None:
            # Before the first: it must not be told the language that the first finds.
            map_batches(block, self.name, self._hear_again, self._keep_second, max_items=self._options.batch_size)
        self._write(block)
        if self._judge is not None:
            self._check_languages(block)
        if self._second is not None:
            for u in block.utterances:
                u.columns["asr_agreement"] = agreement(u.text, str(u.columns["asr_text_2"]), u.language)
        return block

    def _write(self, block: Block) -> None:
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

    def _check_languages(self, block: Block) -> None:
        """Sets `asr_given_language_prob` of the utterances whose language the recogniser has not found out by listening."""
        asked = Block(block.index, block.rate_hz)
        asked.utterances = [u for u in block.utterances if "asr_language_prob" not in u.columns]
        waiting = {id(u) for u in asked.utterances}
        map_batches(asked, self.name, self._judge_language, self._keep_judgement, max_items=self._options.batch_size)
        lost = waiting - {id(u) for u in asked.utterances}
        block.utterances = [u for u in block.utterances if id(u) not in lost]
        block.rejections += asked.rejections

    def _judge_language(self, batch: list[Utterance]) -> list[float | None]:
        assert self._judge is not None
        samples = [resample(u.samples, u.rate_hz, RATE_HZ) for u in batch]
        return self._judge.probabilities(samples, [u.language for u in batch])

    def _keep_judgement(self, utterance: Utterance, probability: float | None) -> None:
        if probability is not None:
            utterance.columns["asr_given_language_prob"] = probability

    def _takes_given(self, utterance: Utterance) -> bool:
        backend, keep = self._options.backend, self._options.keep_given
        return backend == "given" or (keep and bool(utterance.given.get("text")))

    def _transcribe(self, batch: list[Utterance]) -> list[Transcript]:
        return self._run(self._recogniser, batch)

    def _hear_again(self, batch: list[Utterance]) -> list[Transcript]:
        return self._run(self._second, batch)

    def _keep_second(self, utterance: Utterance, transcript: Transcript) -> None:
        utterance.columns["asr_text_2"] = " ".join(transcript.text.split())

    def _run(self, recogniser: Recogniser | None, batch: list[Utterance]) -> list[Transcript]:
        assert recogniser is not None
        # Sampling at higher temperatures is random: its seed follows from what is in the batch, and from nothing else.
        seed = int(hashlib.sha256("".join(u.id for u in batch).encode()).hexdigest()[:8], 16)
        samples = [resample(u.samples, u.rate_hz, RATE_HZ) for u in batch]
        languages = [self._options.language or u.language or None for u in batch]
        return recogniser.transcribe(samples, languages, seed)

    def _keep(self, utterance: Utterance, transcript: Transcript) -> None:
        assert self._recogniser is not None
        utterance.text = " ".join(transcript.text.split())
        utterance.language = transcript.language
        utterance.columns["asr_model"] = self._recogniser.name
        for name in ("avg_logprob", "no_speech_prob", "compression_ratio", "temperature", "language_prob"):
            value = getattr(transcript, name)
            if value is not None:
                utterance.columns[f"asr_{name}"] = float(value)


_UNSPACED = ("zh", "ja", "th", "lo", "my", "yue")
"""Written without spaces between words: compared letter by letter. openai-whisper's list (`split_to_word_tokens`)."""


def agreement(text: str, other: str, language: str) -> float:
    """1 minus the word error rate of `other` against `text`, both in their normal form, 0 where it is more than 1.

    Two empty texts agree; an empty one and another do not.
    """
    import jiwer

    first, second = (normalize(given, language) for given in (text, other))
    if not first or not second:
        return float(first == second)
    rate = jiwer.cer(first, second) if language in _UNSPACED else jiwer.wer(first, second)
    return max(0.0, 1.0 - float(rate))
