"""Turn every utterance into de-duplicated SSL units with their run lengths."""

import hashlib
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from schemas import Block, Tokenizer, Utterance
from schemas.errors import UserError
from transforms.batching import map_batches
from transforms.options import Options
from transforms.registry import load
from transforms.resample import resample
from transforms.stage import Stage
from transforms.units import kmeans, presets
from transforms.units.encoder import BACKENDS, Encoder, Shares
from transforms.units.s3 import S3Tokenizer
from transforms.weights import MissingWeights, Weight, locate


class UnitsOptions(Options):
    """Discrete units of speech: one layer of an encoder, nearest of k centroids, repetitions counted."""

    preset: str | None = None
    """A published setting by name, which decides all that follows; `antiphon tokenizers` lists them. `model` and `quantizer` may be
    given beside it, where the encoder or its centroids lie elsewhere."""
    backend: Literal["whisper", "transformers", "s3"] = "whisper"
    """"whisper" (openai-whisper's encoder), "transformers" (HuBERT, wav2vec 2.0, WavLM and kin) or "s3" (CosyVoice's tokenizers,
    which have units of their own: no `layer`, no `quantizer`)."""
    model: str = "whisper-tiny"
    """The encoder's weights: a name or a path. For "transformers" a folder that `from_pretrained` reads, for "s3" one of
    speech_tokenizer_v1.onnx, _v2, _v3."""
    layer: int = 3
    """1-based transformer layer whose output is quantised."""
    quantizer: str = "antiphon-units"
    """Centroids that `antiphon fit units` made on this layer of this encoder, or `antiphon convert` read from a foreign
    k-means file: a name or a path. Any other is refused."""
    normalize: bool | None = None
    """Waveforms to zero mean and unit variance before a "transformers" encoder; null as its preprocessor_config.json says."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        return presets.filled(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _whole(self) -> Self:
        fields = ("preset", "layer", "quantizer", "normalize")
        given = [name for name in fields if getattr(self, name) != type(self).model_fields[name].default]
        if self.backend == "s3" and given:
            raise ValueError(f"backend s3 has units of its own, and {', '.join(given)} is given; leave it out")
        return self


class Units(Stage):
    """Sets `units` int16 `[U]` and `unit_run_lengths` int32 `[U]`, whose sum is the tokenizer's frame count of the utterance."""

    name = "units"
    version = 2
    _units_of: Callable[[list[np.ndarray]], list[np.ndarray]]
    """Sounds `[n]` at the card's rate -> the unit of each frame, int64 `[T]`: set in `setup`, as the backend has it."""

    def __init__(self, options: UnitsOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights, or WrongQuantizer where the centroids belong to another encoder or layer."""
        from transforms.units import quantizer

        options = self._options
        if options.backend == "s3":
            s3 = S3Tokenizer(options.model)
            self._card, self._units_of = s3.card, lambda samples: [s3.encode(given) for given in samples]
            return
        file = _centroids(options)
        read = quantizer.load(file.path)
        self._encoder = encoder = make_encoder(options.backend, options.model, options.layer, options.normalize)
        read.check(encoder, str(file.path))
        if isinstance(encoder, Shares):
            encoder.share()
        k = len(read.centroids)
        self._card = card(file.path.stem, read.sha256, k, encoder, options.normalize)
        self._units_of = lambda samples: [kmeans.assign(f, read.centroids) for f in encoder.features(samples)]
        if options.preset is not None:
            wanted = presets.preset(options.preset)
            if (k, self._card.rate_hz) != (wanted.k, wanted.rate_hz):
                raise quantizer.WrongQuantizer(
                    f"preset {options.preset} has {wanted.k} units at {wanted.rate_hz:g} Hz; {file.path} on {options.model} gives "
                    f"{k} at {self._card.rate_hz:g} Hz"
                )

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
        options = self._options
        found = {options.model: locate(options.model).sha256}
        return found if options.backend == "s3" else found | {options.quantizer: _centroids(options).sha256}

    def _frames(self, batch: list[Utterance]) -> list[np.ndarray]:
        """The unit of each frame, int64 `[T]`. Raises ValueError where T is not what the card says."""
        samples = [resample(u.samples, u.rate_hz, self._card.sample_rate_hz) for u in batch]
        frames = self._units_of(samples)
        for got, given in zip(frames, samples, strict=True):
            if len(got) != self._card.n_frames(len(given)):
                wanted = self._card.n_frames(len(given))
                raise ValueError(
                    f"{self._card.name}: {len(got)} frames of {len(given)} samples, and {wanted} were expected"
                )
        return frames


def _centroids(options: UnitsOptions) -> Weight:
    """Where the centroids lie. Raises MissingWeights; of a preset, with the way to bring them."""
    try:
        return locate(options.quantizer)
    except MissingWeights:
        if options.quantizer != options.preset:
            raise
        found = presets.preset(options.preset)
        raise MissingWeights(
            options.quantizer,
            f"{options.quantizer}: its centroids are not on this machine; fetch {found.kmeans} (sha256 {found.sha256}) and read "
            f"them once with `antiphon convert {found.kmeans.rpartition('/')[2]} --preset {options.preset}`",
        ) from None


def make_encoder(backend: str, model: str, layer: int, normalize: bool | None = None) -> Encoder:
    """The encoder, loaded. Raises ValueError for an unknown backend or layer, MissingWeights where there are none."""
    kind = load(BACKENDS, backend, "units.backend")
    if normalize is None:
        return kind(model, layer)
    if backend != "transformers":
        raise UserError(f"units.normalize is for the transformers backend; {backend} has its own input")
    return kind(model, layer, normalize)


def card(name: str, quantizer_sha256: str, k: int, encoder: Encoder, normalize: bool | None = None) -> Tokenizer:
    """The tokenizer card of k centroids over an encoder.

    Its revision covers parameters, layer, frame rule and centroids, and the normalisation where that is not the checkpoint's own.
    """
    parts = (encoder.sha256, encoder.layer, encoder.sample_rate_hz, encoder.hop, encoder.trim, quantizer_sha256)
    own = () if normalize is None else (normalize,)
    revision = hashlib.sha256(repr(parts + own).encode()).hexdigest()
    return Tokenizer("units", name, revision, encoder.sample_rate_hz, encoder.hop, (k,), "floor", encoder.trim)
