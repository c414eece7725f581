"""One tokenizer on all clips: everything the bench measures of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.bench.heard import Listener, Voices, similarity, word_error_rate
from pipeline.bench.labels import Labels
from pipeline.bench.report import Result
from pipeline.bench.signal import RATE_HZ, compare, means
from pipeline.bench.streams import describe
from pipeline.bench.subjects import ORIGINAL, Subject, Tokens
from schemas import Utterance
from transforms.resample import resample


@dataclass(frozen=True)
class Clock:
    """How speed is measured: `now` in seconds, and in words what they are."""

    now: Callable[[], float]
    about: str


def clock() -> Clock:
    """Processor time, which other work on the machine does not lengthen; where there is a GPU, the clock on the wall."""
    import torch

    if torch.cuda.is_available():
        return Clock(time.perf_counter, "seconds of sound a second by the clock, with a GPU")
    return Clock(time.process_time, "seconds of sound a second of processor time, all threads together")


class Bench:
    """The clips, and those who listen to them.

    Attributes:
        voiceprints: `[clips, 256]`, of the originals.
    """

    def __init__(
        self,
        clips: Sequence[Utterance],
        originals: Sequence[np.ndarray],
        labels: Labels,
        listener: Listener,
        voices: Voices,
        say: Callable[[str], None],
    ) -> None:
        """`originals`: the clips' sound, float32 `[n]` at 16 kHz."""
        self._clips, self._originals, self._labels = clips, originals, labels
        self._listener, self._voices, self._say = listener, voices, say
        self._clock = clock()
        self._seconds = sum(clip.duration_s for clip in clips)
        self.voiceprints = voices.embed(originals, RATE_HZ)

    def originals(self) -> Result:
        """The row of the clips themselves."""
        self._say(f"{ORIGINAL}: words")
        return Result(ORIGINAL, wer=self._wer(self._originals))

    def measure(self, subject: Subject) -> Result:
        """The row of a tokenizer. Raises UserError for a clip that it cannot code."""
        result = Result(subject.name)
        self._say(f"{subject.name}: tokens")
        tokens = self._encode(subject, result)
        if subject.sizes:
            result.stream = describe([clip.codes for clip in tokens], subject.sizes, self._seconds)
        if subject.has_sound:
            self._say(f"{subject.name}: sound")
            heard = self._decode(subject, tokens, result)
            if subject.has_prefix:
                self._say(f"{subject.name}: words of the first codebook")
                first = [replace(clip, codes=clip.codes[:1]) for clip in tokens]
                result.wer_first = self._wer(self._aligned([subject.decode(clip) for clip in first]))
            result.signal = means([compare(a, b) for a, b in zip(self._originals, heard, strict=True)])
            self._say(f"{subject.name}: words and voice")
            result.wer = self._wer(heard)
            result.speaker_similarity = similarity(self.voiceprints, self._voices.embed(heard, RATE_HZ))
        self._say(f"{subject.name}: probes")
        result.probes = self._labels.probe(tokens, subject.sizes)
        return result

    def _wer(self, heard: Sequence[np.ndarray]) -> float | None:
        return word_error_rate(self._clips, self._listener.texts(self._clips, heard, RATE_HZ))

    def _encode(self, subject: Subject, result: Result) -> list[Tokens]:
        subject.encode(self._clips[0])  # what is loaded or compiled at the first call is no part of the speed
        begun = self._clock.now()
        tokens = [subject.encode(clip) for clip in self._clips]
        result.encode_x = self._seconds / max(1e-9, self._clock.now() - begun)
        return tokens

    def _decode(self, subject: Subject, tokens: Sequence[Tokens], result: Result) -> list[np.ndarray]:
        """Sound of all tokens, and how fast it is made."""
        subject.decode(tokens[0])
        begun = self._clock.now()
        sounds = [subject.decode(clip) for clip in tokens]
        result.decode_x = self._seconds / max(1e-9, self._clock.now() - begun)
        return self._aligned(sounds)

    def _aligned(self, sounds: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """Sounds and their rates, at the originals' rate and lengths."""
        heard = []
        for (sound, rate_hz), original in zip(sounds, self._originals, strict=True):
            there = resample(sound, rate_hz, RATE_HZ)[: len(original)]
            heard.append(np.pad(there, (0, len(original) - len(there))))
        return heard
