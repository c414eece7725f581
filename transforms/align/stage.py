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

BACKENDS = {
    "joint": "transforms.align.joint:JointAligner",
    "phones": "transforms.align.phones:PhoneAligner",
    "gmm": "transforms.align.gmm:GmmAligner",
    "chars": "transforms.align.chars:CharAligner",
    "ctc": "transforms.align.ctc:CtcAligner",
}


class AlignOptions(Options):
    """Which aligner places the words."""

    backend: Literal["joint", "phones", "gmm", "chars", "ctc"] = "joint"
    """"phones": a phone classifier on Whisper's encoder, any language that espeak-ng reads. "gmm": pocketsphinx, English only.
    "joint": the mean of both in English, "phones" elsewhere. "chars": a CTC head of letters on Whisper's encoder, no dictionary,
    Latin script or romanised. "ctc": any Hugging Face CTC checkpoint, any language it spells."""
    model: str = ""
    """The CTC checkpoint's folder, or its name; or a head other than the one that comes with the project."""
    encoder: str = "whisper-tiny"
    """The Whisper checkpoint whose encoder the head reads; the one it was fitted on."""

    @property
    def head(self) -> str:
        """Name or path of the head on Whisper's encoder."""
        return self.model or {"chars": "antiphon-chars"}.get(self.backend, "antiphon-phones")


class Aligner(Protocol):
    """A backend: constructed from its options, which loads its model."""

    def prepare(self, transcripts: Sequence[tuple[Sequence[str], str]]) -> None:
        """Told of all (words, language) of a Block before the first `align`: what is slow to start is then started once."""
        ...

    def align(self, samples: np.ndarray, words: Sequence[str], language: str) -> list[Word]:
        """float32 `[n]` at 16 kHz and its written words -> the same words with times, in order, within the audio.

        Never raises for a transcript that does not fit: words it cannot place are `interpolated` with score 0.
        """
        ...


class Align(Stage):
    """Sets `words`, one for each white-space-separated word of `text`, and `align_score`, the mean of their scores."""

    name = "align"
    version = 5

    def __init__(self, options: AlignOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights where the checkpoint is not on this machine."""
        self._aligner: Aligner = load(BACKENDS, self._options.backend, "align.backend")(self._options)

    def weights(self) -> dict[str, str]:
        names = {"gmm": [], "ctc": [self._options.model]}.get(
            self._options.backend, [self._options.head, self._options.encoder]
        )
        return {name: locate(name).sha256 for name in names}

    def __call__(self, block: Block) -> Block:
        self._aligner.prepare([(u.text.split(), u.language) for u in block.utterances])
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
