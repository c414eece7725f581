"""CTC alignment on the emissions of any Hugging Face CTC checkpoint, in any language that it spells."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from unidecode import unidecode

from schemas import Word
from transforms.align.stage import RATE_HZ, AlignOptions
from transforms.align.viterbi import fits, runs, viterbi
from transforms.align.words import Time, tokens_of, written
from transforms.weights import locate

_CORE_FRAMES = 20_000
"""Beyond as many frames ctc-forced-aligner's memory, frames times states, passes what one utterance is worth."""


class CtcAligner:
    """A checkpoint folder with its vocabulary: `AutoModelForCTC` and its processor's tokenizer (wav2vec 2.0, MMS, HuBERT ...).

    Time stamps are frames times `seconds / frames` as a float: rounded to milliseconds they would drift. Letters that the
    vocabulary lacks are romanised (Unidecode), and left out where that does not help; a word without any letter left is laid
    between its neighbours. A word's score is the mean probability of its letters' frames.
    """

    def __init__(self, options: AlignOptions) -> None:
        """Raises MissingWeights, or OSError and ValueError as transformers does for a folder that it cannot read."""
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        folder = locate(options.model).path
        self._model = AutoModelForCTC.from_pretrained(folder, local_files_only=True).eval()
        self._extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._ids: dict[str, int] = tokenizer.get_vocab()
        self._blank = int(tokenizer.pad_token_id)
        self._cased = any(token.isupper() for token in self._ids if len(token) == 1)

    def align(self, samples: np.ndarray, words: Sequence[str], language: str) -> list[Word]:
        """See `Aligner.align`."""
        duration_s = len(samples) / RATE_HZ
        tokens, owners = tokens_of(words, language or "en")
        spelled = [self._spell(token) for token in tokens]
        targets = [i for ids in spelled for i in ids]
        times: list[Time | None] = [None] * len(tokens)
        if targets and len(samples) >= RATE_HZ // 20:
            log_probs = self._emissions(samples)
            if fits(len(log_probs), targets, log_probs.shape[1], self._blank):
                times = self._times(log_probs, spelled, targets, duration_s)
        return written(words, owners, times, duration_s)

    def _spell(self, token: str) -> list[int]:
        letters = token.upper() if self._cased else token
        if not any(letter in self._ids for letter in letters):
            romanised = unidecode(letters)
            letters = romanised.upper() if self._cased else romanised.lower()
        ids = [self._ids.get(letter, self._blank) for letter in letters]
        return [i for i in ids if i != self._blank]

    @torch.inference_mode()
    def _emissions(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` -> log-probabilities `[T, V]`."""
        inputs = self._extractor(samples, sampling_rate=RATE_HZ, return_tensors="pt")
        logits = self._model(inputs["input_values"]).logits[0]
        found: np.ndarray = logits.float().log_softmax(dim=-1).numpy()
        return found

    def _times(
        self, log_probs: np.ndarray, spelled: Sequence[Sequence[int]], targets: Sequence[int], duration_s: float
    ) -> list[Time | None]:
        path = best_path(log_probs, targets, self._blank)
        letters = iter(runs(path, targets, self._blank))
        frame_s = duration_s / len(log_probs)
        times: list[Time | None] = []
        for ids in spelled:
            own = [next(letters) for _ in ids]
            if not own:
                times.append(None)
                continue
            kept = [math.exp(float(log_probs[t, i])) for (a, b), i in zip(own, ids, strict=True) for t in range(a, b)]
            times.append(Time(own[0][0] * frame_s, own[-1][1] * frame_s, sum(kept) / len(kept), "ctc"))
        return times


def best_path(log_probs: np.ndarray, targets: Sequence[int], blank: int) -> np.ndarray:
    """`viterbi`, by ctc-forced-aligner's C++ core where its memory allows. `fits` must hold: the core ends the process else."""
    if len(log_probs) > _CORE_FRAMES:
        return viterbi(log_probs, targets, blank)
    from ctc_forced_aligner import forced_align

    path, _ = forced_align(
        np.ascontiguousarray(log_probs[None], np.float32), np.asarray(targets, np.int64)[None], blank=blank
    )
    found: np.ndarray = np.asarray(path).reshape(-1).astype(np.int64)
    return found
