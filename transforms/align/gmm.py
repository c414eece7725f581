"""pocketsphinx's aligner on its bundled English model: 10 ms frames, any word a dictionary or a rule can pronounce."""

import math
from collections.abc import Sequence

import numpy as np
from pocketsphinx import Decoder

from schemas import Word
from transforms.align.g2p import pronounce
from transforms.align.stage import AlignOptions
from transforms.align.words import Time, tokens_of, written

_FRAME_S = 0.01
# Tried in order. The first is pocketsphinx's own; the second hardly prunes, for hard audio.
_BEAMS: tuple[dict[str, float], ...] = ({}, {"beam": 1e-120, "pbeam": 1e-120, "wbeam": 1e-100})


class GmmAligner:
    """English only: the words of another language are `interpolated` over the utterance, with score 0.

    A word's score is its frames' geometric mean of the likelihood ratio between the state it was aligned to and the best state
    of that frame: 1 where the word explains the sound as well as anything could. On LJSpeech's own texts the mean is about 0.25,
    on texts of other clips about 0.02.
    """

    def __init__(self, options: AlignOptions) -> None:
        self._decoders = [Decoder(lm=None, loglevel="FATAL", **beams) for beams in _BEAMS]
        self._unpronounceable: set[str] = set()

    def align(self, samples: np.ndarray, words: Sequence[str], language: str) -> list[Word]:
        """See `Aligner.align`."""
        duration_s = len(samples) / 16000
        if language not in ("en", ""):
            return written(words, [], [], duration_s)
        tokens, owners = tokens_of(words)
        self._learn(tokens)
        known = [i for i, token in enumerate(tokens) if token not in self._unpronounceable]
        times: list[Time | None] = [None] * len(tokens)
        pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        for decoder in self._decoders if known else []:
            found = _align(decoder, pcm, [tokens[i] for i in known])
            if found is not None:
                for i, time in zip(known, found, strict=True):
                    times[i] = time
                break
        return written(words, owners, times, duration_s)

    def _learn(self, tokens: Sequence[str]) -> None:
        """Add pronunciations of the tokens that the dictionary does not have."""
        new = sorted({t for t in tokens if t not in self._unpronounceable and self._decoders[0].lookup_word(t) is None})
        if not new:
            return
        pronounced = pronounce(new)
        for token in new:
            if token in pronounced:
                for decoder in self._decoders:
                    decoder.add_word(token, pronounced[token], True)
            else:
                self._unpronounceable.add(token)


def _align(decoder: Decoder, pcm: bytes, tokens: Sequence[str]) -> list[Time] | None:
    """One time for each token, or None where the aligner found no path through the audio."""
    try:
        # The noise estimate outlives an utterance; afresh, what comes out does not depend on what was aligned before.
        decoder.reinit_feat()
        decoder.set_align_text(" ".join(tokens))
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        segments = [s for s in decoder.seg() or () if not s.word.startswith(("<", "[", "+"))]
    except RuntimeError:
        return None
    if [s.word.partition("(")[0] for s in segments] != list(tokens):
        return None
    return [_time(s.start_frame, s.end_frame + 1, s.ascore) for s in segments]


def _time(start: int, end: int, ratio: float) -> Time:
    score = math.exp(math.log(max(ratio, 1e-300)) / max(1, end - start))
    return Time(start * _FRAME_S, end * _FRAME_S, min(1.0, score), "gmm")
