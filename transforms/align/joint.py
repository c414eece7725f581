"""Two aligners whose errors are of different kinds, and the mean of what they find; outside English, the classifier alone."""

from collections.abc import Sequence

import numpy as np

from schemas import Word
from transforms.align.gmm import GmmAligner
from transforms.align.phones import PhoneAligner
from transforms.align.pieces import cuts
from transforms.align.placing import Placed
from transforms.align.stage import RATE_HZ, AlignOptions

_AGREE_S = 0.1
"""Boundaries further apart than this are no two measurements of one thing; the classifier's is taken."""


class JointAligner:
    """The phone classifier's words, their boundaries half way to those that pocketsphinx finds where the two agree.

    On 20 clips of LJSpeech the mean is nearer to the reference than either (benchmarks/alignment.py). pocketsphinx looks up its
    Gaussians on every second frame only: that is half of its time, and costs the mean nothing. Where it finds no way through, it is
    not asked a second, slower time.
    """

    def __init__(self, options: AlignOptions) -> None:
        """Raises MissingWeights, or WrongHead for a file that is no phone classifier."""
        self._phones = PhoneAligner(options)
        self._gmm = GmmAligner(options, every=2, beams=({},))

    def prepare(self, transcripts: Sequence[tuple[Sequence[str], str]]) -> None:
        """See `Aligner.prepare`."""
        self._phones.prepare(transcripts)
        self._gmm.prepare(transcripts)

    def align(self, samples: np.ndarray, words: Sequence[str], language: str) -> list[Word]:
        """See `Aligner.align`."""
        found = self._phones.align(samples, words, language)
        if language not in ("en", ""):
            return found
        if len(samples) <= self._gmm.longest:
            return mean(found, self._gmm.align(samples, words, language))
        return mean(found, self._between_pauses(samples, found, language))

    def _between_pauses(self, samples: np.ndarray, found: Sequence[Word], language: str) -> list[Word]:
        """What pocketsphinx finds in a long recording, asked piece by piece, each of 20 to 40 s between two pauses."""
        frame = RATE_HZ // 100
        placed = [Placed(100 * word.start_s, 100 * word.end_s, word.score) for word in found]
        others: list[Word] = []
        for first, last, start, end in cuts(placed, -(-len(samples) // frame)):
            texts = [word.text for word in found[first:last]]
            for word in self._gmm.align(samples[start * frame : end * frame], texts, language):
                begun_s = start / 100
                others.append(Word(word.text, begun_s + word.start_s, begun_s + word.end_s, word.score, word.how))
        return others


def mean(found: Sequence[Word], others: Sequence[Word]) -> list[Word]:
    """`found`, moved half way to `others` where both measured and lie within 0.1 s; in order. The rest is that of `found`."""
    moved: list[Word] = []
    at = 0.0
    for word, other in zip(found, others, strict=True):
        start_s, end_s = word.start_s, word.end_s
        if word.how == "ctc" and other.how == "gmm":
            start_s, end_s = _mean(start_s, other.start_s), _mean(end_s, other.end_s)
        start_s = max(at, start_s)
        at = max(start_s, end_s)
        moved.append(Word(word.text, start_s, at, word.score, word.how))
    return moved


def _mean(a: float, b: float) -> float:
    return (a + b) / 2 if abs(a - b) <= _AGREE_S else a
