"""espeak-ng as a voice: robotic, instant, in every language, and part of every installation."""

import numpy as np

from transforms.dialogue.speak import SpeakOptions
from transforms.espeak import speak


class EspeakVoice:
    """Voices are espeak-ng's own names: en-us, en-gb, de, fr-fr ..."""

    defaults = {"user": "en-us", "assistant": "en-gb"}  # noqa: RUF012

    def __init__(self, options: SpeakOptions) -> None:
        pass

    def say(self, text: str, voice: str, seed: int) -> tuple[np.ndarray, int]:
        """See `Voice.say`; nothing here is random. Raises EspeakError for an unknown voice."""
        return speak(text, voice)
