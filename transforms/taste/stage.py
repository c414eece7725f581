"""Give every word of every utterance its tuple of TASTE codes."""

import hashlib
from typing import Literal

import numpy as np

from schemas import Block, Tokenizer, Utterance
from transforms.batching import map_batches
from transforms.options import Options
from transforms.resample import resample
from transforms.stage import Stage
from transforms.weights import locate


class TasteOptions(Options):
    """Word-aligned speech tokens: one tuple of codes for each word."""

    model: str = "antiphon-taste"
    """Weights that `antiphon fit taste` made: a name or a path."""
    recogniser: str = "whisper-tiny"
    """Whisper checkpoint on which they were fitted: a name, a path, or a Hugging Face folder. Any other is refused."""
    layout: Literal["antiphon", "official"] = "antiphon"
    """Whose file `model` is: of `antiphon fit taste`, or of TASTE's authors (docs/taste.md, "Official weights")."""
    latents: bool = False
    """Store the quantised vector of each word beside its codes, in `taste_latents`."""
    language: str = "en"
    """Language of utterances whose language is not known, ISO 639-1."""


class Taste(Stage):
    """Sets `taste_codes`, int16 `[len(words), R]`, in the order of `utterance.words`; and `taste_latents` where that is asked for.

    Each utterance is coded alone, so its codes do not depend on what else is in the block. An utterance of more than 30 s or
    of more text than Whisper's window holds is rejected with both numbers; `segment` and `transcribe` make neither.
    """

    name = "taste"

    def __init__(self, options: TasteOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights, or WrongTokenizer where the weights were fitted on another recogniser."""
        from transforms.taste.model import load
        from transforms.taste.official import read_official
        from transforms.whisper_model import encoder_pass, load_whisper

        self._weight = locate(self._options.model)
        read = load if self._options.layout == "antiphon" else read_official
        self._model = read(self._weight.path, load_whisper(self._options.recogniser))
        encoder = self._model.encoder
        encoder_pass(encoder).want("taste", [self._model.value_layer, len(encoder.blocks)])

    def __call__(self, block: Block) -> Block:
        def keep(utterance: Utterance, codes: np.ndarray) -> None:
            utterance.taste_codes = codes
            if self._options.latents:
                utterance.taste_latents = self._model.latents(codes)

        map_batches(block, self.name, lambda batch: [self._codes(u) for u in batch], keep, max_items=1)
        block.tokenizers["taste"] = self.tokenizer()
        return block

    def tokenizer(self) -> Tokenizer:
        from transforms.taste.aggregator import RATE_HZ

        # The recogniser's own hash is inside a file of ours, so the file's hash stands for both.
        revision = self._weight.sha256
        if self._options.layout == "official":
            both = f"{revision} {self._model.base_sha256}"
            revision = hashlib.sha256(both.encode()).hexdigest()
        sizes = self._model.quantiser.sizes
        return Tokenizer("taste", self._options.model, revision, RATE_HZ, 0, sizes, "word")

    def weights(self) -> dict[str, str]:
        return {name: locate(name).sha256 for name in (self._options.model, self._options.recogniser)}

    def _codes(self, utterance: Utterance) -> np.ndarray:
        from transforms.taste.aggregator import RATE_HZ

        samples = resample(utterance.samples, utterance.rate_hz, RATE_HZ)
        text = " ".join(word.text for word in utterance.words)
        codes = self._model.codes(samples, text, utterance.language or self._options.language)
        if len(codes) != len(utterance.words):
            raise ValueError(f"{len(utterance.words)} words, but their texts split into {len(codes)}")
        return codes
