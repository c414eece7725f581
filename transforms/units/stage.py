"""Turn every utterance into de-duplicated SSL units with their run lengths."""

import hashlib
from typing import Literal

import numpy as np

from schemas import Block, Tokenizer, Utterance
from transforms.batching import map_batches
from transforms.options import Options
from transforms.registry import load
from transforms.resample import resample
from transforms.stage import Stage
from transforms.units import kmeans
from transforms.units.encoder import BACKENDS, Encoder
from transforms.weights import locate


class UnitsOptions(Options):
    """Discrete units of speech: one layer of an encoder, nearest of k centroids, repetitions counted."""

    backend: Literal["whisper", "transformers"] = "whisper"
    """"whisper" (openai-whisper's encoder) or "transformers" (HuBERT, wav2vec 2.0, WavLM and kin)."""
    model: str = "whisper-tiny"
    """The encoder's weights: a name or a path. For "transformers" a folder that `from_pretrained` reads."""
    layer: int = 3
    """1-based transformer layer whose output is quantised."""
    quantizer: str = "antiphon-units"
    """Centroids that `antiphon fit units` made on this layer of this encoder: a name or a path. Any other is refused."""


class Units(Stage):
    """Sets `units` int16 `[U]` and `unit_run_lengths` int32 `[U]`, whose sum is the tokenizer's frame count of the utterance."""

    name = "units"

    def __init__(self, options: UnitsOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights, or WrongQuantizer where the centroids belong to another encoder or layer."""
        from transforms.units import quantizer

        options = self._options
        file = locate(options.quantizer)
        self._quantizer = quantizer.load(file.path)
        self._encoder = make_encoder(options.backend, options.model, options.layer)
        self._quantizer.check(self._encoder, str(file.path))
        self._card = card(file.path.stem, self._quantizer.sha256, len(self._quantizer.centroids), self._encoder)

    def __call__(self, block: Block) -> Block:
        def keep(utterance: Utterance, frames: np.ndarray) -> None:
            units, run_lengths = kmeans.dedup(frames)
            utterance.units, utterance.unit_run_lengths = units.astype(np.int16), run_lengths.astype(np.int32)

        map_batches(block, self.name, self._frames, keep)
        block.tokenizers["units"] = self._card
        return block

    def tokenizer(self) -> Tokenizer:
        return self._card

    def weights(self) -> dict[str, str]:
        return {name: locate(name).sha256 for name in (self._options.model, self._options.quantizer)}

    def _frames(self, batch: list[Utterance]) -> list[np.ndarray]:
        """The unit of each frame, int64 `[T]`. Raises ValueError where T is not what the card says."""
        samples = [resample(u.samples, u.rate_hz, self._encoder.sample_rate_hz) for u in batch]
        frames = [kmeans.assign(f, self._quantizer.centroids) for f in self._encoder.features(samples)]
        for got, given in zip(frames, samples, strict=True):
            if len(got) != self._card.n_frames(len(given)):
                wanted = self._card.n_frames(len(given))
                raise ValueError(
                    f"{self._card.name}: {len(got)} frames of {len(given)} samples, and {wanted} were expected"
                )
        return frames


def make_encoder(backend: str, model: str, layer: int) -> Encoder:
    """The encoder, loaded. Raises ValueError for an unknown backend or layer, MissingWeights where there are none."""
    return load(BACKENDS, backend, "units.backend")(model, layer)


def card(name: str, quantizer_sha256: str, k: int, encoder: Encoder) -> Tokenizer:
    """The tokenizer card of k centroids over an encoder. Its revision covers parameters, layer, frame rule and centroids."""
    parts = (encoder.sha256, encoder.layer, encoder.sample_rate_hz, encoder.hop, encoder.trim, quantizer_sha256)
    revision = hashlib.sha256(repr(parts).encode()).hexdigest()
    return Tokenizer("units", name, revision, encoder.sample_rate_hz, encoder.hop, (k,), "floor", encoder.trim)
