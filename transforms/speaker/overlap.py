"""How many speak at once, every 10 ms: nobody, one, or two and more."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transforms.align.head import Head
from transforms.segment import regions
from transforms.speaker.clustering import Turn

KIND = "voices"
CLASSES = 3
"""0: nobody, 1: one speaker, 2: two or more."""
FRAMES_A_S = 100
_SMOOTHED = 25
"""Frames (0.25 s) whose mean a frame's probability becomes: overlap flickers where one of the two draws breath."""


class OverlapDetector:
    """The network that `transforms.speaker.fit_overlap` fits, on Whisper's encoder."""

    def __init__(self, path: Path, encoder: str) -> None:
        """Raises MissingWeights where the encoder is not on this machine, and WrongHead for a file of another kind."""
        self._head = Head.load(path, encoder, KIND)

    def voices(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` at 16 kHz -> probabilities `[T, 3]`, one every 10 ms; T is `2 (n // 320)`."""
        found: np.ndarray = np.exp(self._head.log_posteriors(samples))
        return found

    def overlaps(self, samples: np.ndarray, threshold: float) -> list[tuple[float, float]]:
        """Seconds in which two or more speak, in order."""
        return spans(self.voices(samples)[:, 2], threshold)


def spans(probabilities: np.ndarray, threshold: float) -> list[tuple[float, float]]:
    """`[T]`, one every 10 ms -> the seconds where they pass `threshold`, smoothed, by the VAD's hysteresis."""
    if not len(probabilities):
        return []
    padded = np.pad(probabilities.astype(np.float64), (_SMOOTHED // 2, _SMOOTHED // 2), mode="edge")
    smooth = np.convolve(padded, np.full(_SMOOTHED, 1 / _SMOOTHED), mode="valid")
    return [(span.start / FRAMES_A_S, span.end / FRAMES_A_S) for span in regions(smooth, threshold, 1, len(smooth))]


def with_second(turns: Sequence[Turn], overlaps: Sequence[tuple[float, float]]) -> list[Turn]:
    """The turns, and in each overlap another one: that of the speaker who is nearest in time (Otterson and Ostendorf 2007,
    "Efficient use of overlap information in speaker diarization"). With a single speaker nothing is added.
    """
    added = []
    for start_s, end_s in overlaps:
        for turn in turns:
            begin_s, stop_s = max(start_s, turn.start_s), min(end_s, turn.end_s)
            others = [other for other in turns if other.speaker != turn.speaker]
            if stop_s > begin_s and others:
                middle_s = (begin_s + stop_s) / 2
                nearest = min(others, key=lambda other: max(other.start_s - middle_s, middle_s - other.end_s))
                added.append(Turn(begin_s, stop_s, nearest.speaker))
    return sorted([*turns, *added])
