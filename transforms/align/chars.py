"""CTC alignment on the head of letters that comes with the project: 10 ms, no dictionary, whatever Unidecode can romanise."""

from collections.abc import Sequence

import numpy as np

from schemas import Word
from transforms.align.head import Head
from transforms.align.letters import place, spell
from transforms.align.stage import RATE_HZ, AlignOptions
from transforms.align.words import Time, tokens_of, with_wildcards, written
from transforms.weights import locate

KIND = "letters"
PRIOR_WEIGHT = 0.4
"""Posteriors are divided by this power of the letters' frequency, in the fit and here."""
FLOOR = 1e-4
"""Added to that frequency before its logarithm is taken."""
_FRAME_S = 0.01
_SHIFT_S = -0.005
"""Frame t is centred on sample 160 t."""


class CharAligner:
    """Letters of the head's alphabet, straight from the spelling; see `transforms.align.fit_chars`.

    A word's score is the mean probability of its letters' frames.
    """

    def __init__(self, options: AlignOptions) -> None:
        """Raises MissingWeights, or WrongHead for a file that is no head of letters."""
        self._head = Head.load(locate(options.head).path, options.encoder, KIND)
        self._ids = {letter: 1 + i for i, letter in enumerate(self._head.about["alphabet"])}
        self._weight = PRIOR_WEIGHT * np.log(self._head.prior + FLOOR)

    def prepare(self, transcripts: Sequence[tuple[Sequence[str], str]]) -> None:
        """There is nothing to start."""

    def align(self, samples: np.ndarray, words: Sequence[str], language: str) -> list[Word]:
        """See `Aligner.align`."""
        duration_s = len(samples) / RATE_HZ
        tokens, owners = with_wildcards(words, *tokens_of(words, language or "en"))
        times: list[Time | None] = [None] * len(tokens)
        if tokens and len(samples) >= 2 * RATE_HZ // 100:
            log_probs = self._head.log_posteriors(samples)
            spelled = [spell(token, self._ids) for token in tokens]
            times = place(log_probs - self._weight, log_probs, spelled, 0, _FRAME_S, _SHIFT_S)
        return written(words, owners, times, duration_s)
