"""Give every word of every utterance its time."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from schemas import Block, Utterance, Word
from transforms.batching import map_batches
from transforms.options import Options
from transforms.registry import load
from transforms.resample import resample
from transforms.stage import Stage
from transforms.weights import locate

RATE_HZ = 16000

BACKENDS = {"gmm": "transforms.align.gmm:GmmAligner", "ctc": "transforms.align.ctc:CtcAligner"}


class AlignOptions(Options):
    """Which aligner places the words."""

    backend: Literal["gmm", "ctc"] = "gmm"
    """"gmm": pocketsphinx and its English model, 10 ms frames. "ctc": any Hugging Face CTC checkpoint, any language it spells."""
    model: str = ""
    """The CTC checkpoint's folder, or its name; `gmm` brings its own."""


class Aligner(Protocol):
    """A backend: constructed from its options, which loads its model."""

    def align(self, samples: np.ndarray, words: Sequence[str], language: str) -> list[Word]:
        """float32 `[n]` at 16 kHz and its written words -> the same words with times, in order, within the audio.

        Never raises for a transcript that does not fit: words it cannot place are `interpolated` with score 0.
        """
        ...


class Align(Stage):
    """Sets `words`, one for each white-space-separated word of `text`, and `align_score`, the mean of their scores."""

    name = "align"
    version = 2

    def __init__(self, options: AlignOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights where the checkpoint is not on this machine."""
        self._aligner: Aligner = load(BACKENDS, self._options.backend, "align.backend")(self._options)

    def weights(self) -> dict[str, str]:
        return {self._options.model: locate(self._options.model).sha256} if self._options.backend == "ctc" else {}

    def __call__(self, block: Block) -> Block:
        map_batches(block, self.name, self._align, self._keep, max_items=1)
        return block

    def _align(self, batch: list[Utterance]) -> list[list[Word]]:
        return [
            self._aligner.align(resample(u.samples, u.rate_hz, RATE_HZ), u.text.split(), u.language) if u.text else []
            for u in batch
        ]

    def _keep(self, utterance: Utterance, words: list[Word]) -> None:
        for word in words:  # resampling may have rounded the length up
            word.end_s = min(word.end_s, utterance.duration_s)
            word.start_s = min(word.start_s, word.end_s)
        utterance.words = words
        if words:
            utterance.columns["align_score"] = sum(word.score for word in words) / len(words)
