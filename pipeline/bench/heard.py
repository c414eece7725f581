"""What a recogniser and a speaker encoder make of sound that came back from a codec."""

from collections.abc import Sequence

import jiwer
import numpy as np

from schemas import Block, Utterance
from transforms.normalize import normalize
from transforms.resample import resample
from transforms.speaker.encoder import RATE_HZ as SPEAKER_RATE_HZ
from transforms.speaker.encoder import SpeakerEncoder, centre, louder
from transforms.transcribe.stage import Transcribe, TranscribeOptions
from transforms.weights import locate


class Listener:
    """A recogniser of the pipeline, with its fallbacks: seeded, so the same sound gives the same words."""

    def __init__(self, model: str) -> None:
        """Raises MissingWeights."""
        self._stage = Transcribe(TranscribeOptions(model=model))
        self._stage.setup()

    def texts(self, clips: Sequence[Utterance], heard: Sequence[np.ndarray], rate_hz: int) -> list[str]:
        """The normal form of what is understood of each clip's sound `[n]`; "" where nothing is."""
        block = Block(0, rate_hz)
        block.utterances = [
            Utterance(str(i), -1, 0, len(sound), sound, rate_hz, language=clip.language)
            for i, (clip, sound) in enumerate(zip(clips, heard, strict=True))
        ]
        self._stage(block)
        found = {int(u.source): u.text for u in block.utterances}
        return [normalize(found.get(i, ""), clip.language) for i, clip in enumerate(clips)]


def word_error_rate(clips: Sequence[Utterance], texts: Sequence[str]) -> float | None:
    """Of texts in normal form against the corpus's, over all words together; None where the corpus has no words."""
    pairs = [(normalize(clip.text, clip.language), text) for clip, text in zip(clips, texts, strict=True)]
    known = [(said, text) for said, text in pairs if said]
    return float(jiwer.wer([said for said, _ in known], [text for _, text in known])) if known else None


class Voices:
    """Embeddings of Resemblyzer's speaker encoder."""

    def __init__(self) -> None:
        """Raises MissingWeights."""
        self._encoder = SpeakerEncoder(locate("resemblyzer").path)

    def embed(self, sounds: Sequence[np.ndarray], rate_hz: int) -> np.ndarray:
        """B float32 `[n]` -> `[B, 256]`, each of length 1."""
        found = []
        for sound in sounds:
            windows = self._encoder.windows([louder(resample(sound, rate_hz, SPEAKER_RATE_HZ))], 40)[0]
            found.append(centre(windows))
        return np.stack(found)


def similarity(originals: np.ndarray, others: np.ndarray) -> float:
    """The mean cosine of embeddings `[B, 256]` of the same clips."""
    return float((originals * others).sum(axis=1).mean())


def similarity_of_clips(voices: np.ndarray, speakers: Sequence[str]) -> tuple[float | None, float | None]:
    """The mean cosine between clips of one speaker, and between clips of two: what the figures above lie between.

    None where there is no such pair of clips.
    """
    cosines = voices @ voices.T
    names = np.array(speakers)
    known = (names != "")[:, None] & (names != "")[None]
    alike = (names[:, None] == names[None]) & known & ~np.eye(len(names), dtype=bool)
    unlike = (names[:, None] != names[None]) & known
    return tuple(float(cosines[pairs].mean()) if pairs.any() else None for pairs in (alike, unlike))  # type: ignore[return-value]
