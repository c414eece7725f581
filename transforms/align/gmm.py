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
_WINDOW = 410
"""Samples of a frame's window; pocketsphinx raises on no sound at all."""
_SHIFT_S = 0.0078
"""Frame u is a window of 25.6 ms from 10 u ms on, so what changes between frames u - 1 and u changes at 10 u + 12.8 - 5 ms."""
_SILENCE = 0.1
"""Probability of a pause between two words. pocketsphinx's own, 0.005, is meant for a recogniser: it lets words run into pauses."""
# Tried in order. The first is pocketsphinx's own; the second hardly prunes, for hard audio.
_BEAMS: tuple[dict[str, float], ...] = ({}, {"beam": 1e-120, "pbeam": 1e-120, "wbeam": 1e-100})


def make_decoder(**settings: float) -> Decoder:
    """pocketsphinx with its bundled English model, ready to align."""
    return Decoder(lm=None, loglevel="FATAL", **{"silprob": _SILENCE, **settings})


class GmmAligner:
    """English only: the words of another language are `interpolated` over the utterance, with score 0.

    A word's score is its frames' geometric mean of the likelihood ratio between the state it was aligned to and the best state
    of that frame: 1 where the word explains the sound as well as anything could. On LJSpeech's own texts the mean is about 0.25,
    on texts of other clips about 0.02.
    """

    longest = 60 * 16000
    """Samples beyond which pocketsphinx's memory and pruning are not worth trying."""

    def __init__(self, options: AlignOptions, every: int = 1, beams: Sequence[dict[str, float]] = _BEAMS) -> None:
        """`every`: Gaussians are looked up on one frame in so many. `beams`: tried in order until a way through is found."""
        self._decoders = [make_decoder(ds=every, **settings) for settings in beams]
        self._unpronounceable: set[str] = set()

    def prepare(self, transcripts: Sequence[tuple[Sequence[str], str]]) -> None:
        """Learn all English words that the dictionary lacks, in one call of espeak-ng."""
        self._learn(
            sorted({t for words, language in transcripts if language in ("en", "") for t in tokens_of(words)[0]})
        )

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
        for decoder in self._decoders if known and len(samples) >= _WINDOW else []:
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
    start_s = start * _FRAME_S + _SHIFT_S if start else 0.0
    return Time(start_s, end * _FRAME_S + _SHIFT_S, min(1.0, score), "gmm")
