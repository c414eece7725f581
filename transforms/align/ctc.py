"""CTC alignment on the emissions of any Hugging Face CTC checkpoint, in any language that it spells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from schemas import Word
from transforms.align.letters import place, spell
from transforms.align.stage import RATE_HZ, AlignOptions
from transforms.align.words import Time, tokens_of, with_wildcards, written
from transforms.weights import locate

_WINDOW_S, _CONTEXT_S = 20, 1
"""Longer sound is heard in windows of 20 s, with a second more on either side."""


class CtcAligner:
    """A checkpoint folder with its vocabulary: `AutoModelForCTC` and its processor's tokenizer (wav2vec 2.0, MMS, HuBERT ...).

    A frame's time is its number times the model's stride, as a float: rounded to milliseconds it would drift, and so would the
    duration over the number of frames, which leaves out that convolutions do not pad. Letters that the vocabulary lacks are
    romanised (Unidecode), and left out where that does not help; see `letters.place` for words without any.
    """

    def __init__(self, options: AlignOptions) -> None:
        """Raises MissingWeights, or OSError and ValueError as transformers does for a folder that it cannot read."""
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        folder = locate(options.model).path
        self._model = AutoModelForCTC.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
        self._extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._blank = int(tokenizer.pad_token_id)
        self._letters = {c: i for c, i in tokenizer.get_vocab().items() if len(c) == 1 and i != self._blank}
        self._cased = any(map(str.isupper, self._letters))
        self._stride, self._field = stride_and_field(self._model.config)

    def prepare(self, transcripts: Sequence[tuple[Sequence[str], str]]) -> None:
        """There is nothing to start."""

    def align(self, samples: np.ndarray, words: Sequence[str], language: str) -> list[Word]:
        """See `Aligner.align`."""
        duration_s = len(samples) / RATE_HZ
        tokens, owners = with_wildcards(words, *tokens_of(words, language or "en"))
        times: list[Time | None] = [None] * len(tokens)
        if tokens and len(samples) >= max(self._field, self._stride, RATE_HZ // 20):
            log_probs = self._emissions(samples)
            spelled = [spell(token.upper() if self._cased else token, self._letters) for token in tokens]
            frame_s = self._stride / RATE_HZ if self._stride else duration_s / len(log_probs)
            # A frame's own sound is the stride in the middle of what it sees.
            shift_s = max(0, self._field - self._stride) / 2 / RATE_HZ
            times = place(log_probs, log_probs, spelled, self._blank, frame_s, shift_s)
        return written(words, owners, times, duration_s)

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
