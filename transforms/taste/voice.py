"""The voice of an utterance as the speech decoder is told it: one vector of length 1."""

import numpy as np

from schemas import Utterance
from transforms.resample import resample
from transforms.speaker.encoder import RATE_HZ, SpeakerEncoder, centre, louder
from transforms.weights import locate

_HOP = 40
"""Mel frames of 10 ms between two windows of 1.6 s: the speaker stage's default."""


class VoiceEncoder:
    """Embeddings by a speaker encoder; an utterance that the speaker stage has seen keeps its own."""

    def __init__(self, name: str) -> None:
        """Raises MissingWeights."""
        self._encoder = SpeakerEncoder(locate(name).path)

    def __call__(self, utterance: Utterance) -> np.ndarray:
        """float32 `[256]`."""
        if utterance.speaker_embedding is not None:
            return np.asarray(utterance.speaker_embedding, dtype=np.float32)
        return self.of(utterance.samples, utterance.rate_hz)

    def of(self, samples: np.ndarray, rate_hz: int) -> np.ndarray:
        """float32 `[n]` -> float32 `[256]`."""
        return centre(self._encoder.windows([louder(resample(samples, rate_hz, RATE_HZ))], _HOP)[0])
