"""Alignment on the phone classifier's frames: 10 ms, every language that can be read aloud, wildcards for what cannot."""

from collections.abc import Sequence

import numpy as np

from schemas import Word
from transforms.align.g2p import Lexicon
from transforms.align.head import Head
from transforms.align.pieces import align_pieces
from transforms.align.placing import Placed
from transforms.align.stage import RATE_HZ, AlignOptions
from transforms.align.words import Time, tokens_of, with_wildcards, written
from transforms.weights import locate

FRAME_S = 0.01
SHIFT_S = -0.0022
"""A class that begins with frame t begins at t FRAME_S + SHIFT_S.

The classifier learned from pocketsphinx's alignments. Frame u of pocketsphinx is a window of 25.6 ms from 10 u ms on, so between
frames u - 1 and u the sound is 10 u + 12.8 - 5 = 10 u + 7.8 ms; and its frame u is frame u + 1 here.
"""


class PhoneAligner:
    """The classifier that comes with the project, or another that `transforms.align.fit` wrote.

    A word's score is the mean probability of its phones in its frames. A symbol or a word that nothing can read is a `wildcard`,
    placed on the speech that its neighbours leave; mere punctuation is laid into the pause.
    """

    def __init__(self, options: AlignOptions) -> None:
        """Raises MissingWeights, or WrongHead for a file that is no phone classifier."""
        self._head = Head.load(locate(options.head).path, options.encoder)
        self._lexicon = Lexicon()

    def prepare(self, transcripts: Sequence[tuple[Sequence[str], str]]) -> None:
        """Look all words up, one call of espeak-ng a language."""
        tokens: dict[str, set[str]] = {}
        for words, language in transcripts:
            tokens.setdefault(language, set()).update(tokens_of(words, language or "en")[0])
        for language, new in sorted(tokens.items()):
            self._lexicon.look_up(sorted(new), language)

    def align(self, samples: np.ndarray, words: Sequence[str], language: str) -> list[Word]:
        """See `Aligner.align`. Any length: an hour is placed roughly as a whole, then exactly piece by piece."""
        duration_s = len(samples) / RATE_HZ
        tokens, owners = with_wildcards(words, *tokens_of(words, language or "en"))
        times: list[Time | None] = [None] * len(tokens)
        if tokens and len(samples) >= 2 * RATE_HZ // 100:
            variants = self._lexicon.look_up(tokens, language)
            log_posteriors = self._head.log_posteriors(samples)
            placed = align_pieces(log_posteriors, self._head.prior, variants)
            if placed is not None:
                times = [
                    Time(*seconds(p, len(log_posteriors), duration_s), p.score, "ctc" if options else "wildcard")
                    for p, options in zip(placed, variants, strict=True)
                ]
        return written(words, owners, times, duration_s)


def seconds(placed: Placed, n_frames: int, duration_s: float) -> tuple[float, float]:
    """Frames -> seconds; what touches the first or the last frame touches the end of the sound."""
    start_s = placed.start * FRAME_S + SHIFT_S if placed.start > 0 else 0.0
    end_s = placed.end * FRAME_S + SHIFT_S if placed.end < n_frames else duration_s
    return max(0.0, start_s), min(end_s, duration_s)
