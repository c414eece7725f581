"""CTC alignment on the emissions of any Hugging Face CTC checkpoint, in any language that it spells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from unidecode import unidecode

from schemas import Word
from transforms.align.stage import RATE_HZ, AlignOptions
from transforms.align.viterbi import Trellis, align, runs
from transforms.align.words import Time, tokens_of, with_wildcards, written
from transforms.weights import locate

_WINDOW_S, _CONTEXT_S = 20, 1
"""Longer sound is heard in windows of 20 s, with a second more on either side."""
_STAR_WEIGHT = -3.0
"""A wildcard's frame is worth this less (natural logarithm) than the best letter's, so that it leaves words what is theirs."""


class CtcAligner:
    """A checkpoint folder with its vocabulary: `AutoModelForCTC` and its processor's tokenizer (wav2vec 2.0, MMS, HuBERT ...).

    A frame's time is its number times the model's stride, as a float: rounded to milliseconds it would drift, and so would the
    duration over the number of frames, which leaves out that convolutions do not pad. Letters that the vocabulary lacks are
    romanised (Unidecode), and left out where that does not help; a word without any letter left is a `wildcard`, placed on the
    speech that its neighbours leave. A word's score is the mean probability of its letters' frames.
    """

    def __init__(self, options: AlignOptions) -> None:
        """Raises MissingWeights, or OSError and ValueError as transformers does for a folder that it cannot read."""
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        folder = locate(options.model).path
        self._model = AutoModelForCTC.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
        self._extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._ids: dict[str, int] = tokenizer.get_vocab()
        self._blank = int(tokenizer.pad_token_id)
        self._cased = any(token.isupper() for token in self._ids if len(token) == 1)
        self._stride, self._field = stride_and_field(self._model.config)

    def prepare(self, transcripts: Sequence[tuple[Sequence[str], str]]) -> None:
        """There is nothing to start."""

    def align(self, samples: np.ndarray, words: Sequence[str], language: str) -> list[Word]:
        """See `Aligner.align`."""
        duration_s = len(samples) / RATE_HZ
        tokens, owners = with_wildcards(words, *tokens_of(words, language or "en"))
        times: list[Time | None] = [None] * len(tokens)
        if tokens and len(samples) >= max(self._field, self._stride, RATE_HZ // 20):
            times = self._times(self._emissions(samples), [self._spell(token) for token in tokens], duration_s)
        return written(words, owners, times, duration_s)

    def _spell(self, token: str) -> list[int]:
        letters = token.upper() if self._cased else token
        if not any(letter in self._ids for letter in letters):
            romanised = unidecode(letters)
            letters = romanised.upper() if self._cased else romanised.lower()
        ids = [self._ids.get(letter, self._blank) for letter in letters]
        return [i for i in ids if i != self._blank]

    def _emissions(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` -> log-probabilities `[T, V]`."""
        stride = self._stride or len(samples)
        core, context = (s * RATE_HZ // stride * stride for s in (_WINDOW_S, _CONTEXT_S))
        if not self._stride or len(samples) <= core + 2 * context:
            return self._hear(samples)
        found = []
        for start in range(0, len(samples) - self._field, core):
            low = max(0, start - context)
            heard = self._hear(samples[low : start + core + context])[(start - low) // stride :]
            found.append(heard[: core // stride])
        return np.concatenate(found)

    @torch.inference_mode()
    def _hear(self, samples: np.ndarray) -> np.ndarray:
        inputs = self._extractor(samples, sampling_rate=RATE_HZ, return_tensors="pt")
        logits = self._model(**inputs).logits[0]
        found: np.ndarray = logits.float().log_softmax(dim=-1).numpy()
        return found

    def _times(self, log_probs: np.ndarray, spelled: Sequence[Sequence[int]], duration_s: float) -> list[Time | None]:
        """One time for each token, or None for all where they do not fit."""
        star = log_probs.shape[1]
        others = np.delete(log_probs, self._blank, axis=1).max(axis=1, keepdims=True)
        scores = np.concatenate([log_probs, others + _STAR_WEIGHT], axis=1)
        units = [list(ids) or [star] for ids in spelled]
        targets = [i for ids in units for i in ids]
        states = align(scores, Trellis.ctc(targets, self._blank))
        if states is None:
            return [None] * len(spelled)
        probabilities = np.exp(np.concatenate([log_probs, others], axis=1))
        frame_s = self._stride / RATE_HZ if self._stride else duration_s / len(log_probs)
        # A frame's own sound is the stride in the middle of what it sees.
        shift_s = max(0, self._field - self._stride) / 2 / RATE_HZ
        letters = iter(zip(runs(states, len(targets)), targets, strict=True))
        times: list[Time | None] = []
        for ids, kept in zip(spelled, units, strict=True):
            own = [next(letters) for _ in kept]
            worth = np.concatenate([probabilities[a:b, i] for (a, b), i in own])
            start_s, end_s = own[0][0][0] * frame_s + shift_s, own[-1][0][1] * frame_s + shift_s
            times.append(Time(start_s, end_s, min(1.0, float(worth.mean())), "ctc" if ids else "wildcard"))
        return times


def stride_and_field(config: Any) -> tuple[int, int]:
    """Samples between two frames, and samples that a frame's convolutions see; 0 and 0 where the config does not say."""
    strides, kernels = getattr(config, "conv_stride", None), getattr(config, "conv_kernel", None)
    if not strides or not kernels or len(strides) != len(kernels):
        return 0, 0
    stride, field = 1, 1
    for step, kernel in zip(strides, kernels, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return stride, field
