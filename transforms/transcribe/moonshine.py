"""Moonshine tiny, whose English weights come inside the moonshine-voice package: a recogniser with no download of its own."""

from collections.abc import Sequence
from pathlib import Path

import moonshine_voice
import numpy as np
from moonshine_voice.moonshine_api import ModelArch
from moonshine_voice.transcriber import Transcriber

from transforms.transcribe.stage import RATE_HZ, TranscribeOptions, Transcript


class MoonshineRecogniser:
    """English only; reads an utterance in its own length, without Whisper's 30 s window. Gives no probabilities."""

    name = "moonshine-tiny-en"

    def __init__(self, options: TranscribeOptions) -> None:
        """Raises ValueError for another language than English."""
        if options.language not in (None, "en"):
            raise ValueError(f"transcribe.language is {options.language!r}; Moonshine tiny knows only English (en)")
        folder = Path(moonshine_voice.__file__).parent / "assets" / "tiny-en"
        self._transcriber = Transcriber(str(folder), ModelArch.TINY)

    def transcribe(self, batch: Sequence[np.ndarray], languages: Sequence[str | None], seed: int) -> list[Transcript]:
        """See `Recogniser.transcribe`; nothing here is random."""
        return [Transcript(self._text(samples), "en") for samples in batch]

    def _text(self, samples: np.ndarray) -> str:
        lines = self._transcriber.transcribe_without_streaming(samples.tolist(), RATE_HZ).lines
        return " ".join(line.text.strip() for line in lines)
