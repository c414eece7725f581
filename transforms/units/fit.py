"""Fit the centroids of a unit tokenizer: a uniform sample of encoder frames, then k-means."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas import Utterance
from transforms.options import Options
from transforms.resample import resample
from transforms.units import kmeans
from transforms.units.encoder import Encoder
from transforms.units.quantizer import Quantizer
from transforms.units.reservoir import Reservoir
from transforms.units.stage import UnitsOptions, make_encoder

_DEFAULT = UnitsOptions()


class FitUnitsOptions(Options):
    """How to fit a unit tokenizer."""

    path: Path
    """The safetensors file to write."""
    data: str
    """The data, its size and its licence in one sentence; written into the file's header."""
    backend: str = _DEFAULT.backend
    """As in `units.backend`."""
    model: str = _DEFAULT.model
    """As in `units.model`."""
    layer: int = _DEFAULT.layer
    """As in `units.layer`."""
    normalize: bool | None = _DEFAULT.normalize
    """As in `units.normalize`."""
    k: int = 500
    """Number of units."""
    max_frames: int = 200_000
    """Frames that k-means sees, drawn uniformly from all; 200,000 frames of 384 floats take 300 MB."""
    seed: int = 0
    """Seed of the draw and of k-means."""


@dataclass(frozen=True, slots=True)
class FittedUnits:
    """What was written, and figures of it.

    Attributes:
        n_utterances, n_frames: all that were encoded.
        distortion: mean squared distance of a sampled frame from its centroid, over the frames' variance; 0 is perfect.
        used: units that occur in the sample. mean_run_frames: mean run length, over 20 utterances drawn by hash.
    """

    path: Path
    n_utterances: int
    n_frames: int
    distortion: float
    used: int
    mean_run_frames: float


def fit_units(utterances: Iterable[Utterance], options: FitUnitsOptions, say: Callable[[str], None]) -> FittedUnits:
    """Encode all utterances, fit the centroids and write them to `options.path`; the same input gives the same bytes.

    `pipeline.fit_units` does the same over the shards of a corpus, and comes to the same bytes.

    Args:
        utterances: read once; need samples only.
        say: told of progress.

    Raises:
        ValueError: fewer frames than units.
        MissingWeights: the encoder is not on this machine.
    """
    encoder = make_encoder(options.backend, options.model, options.layer, options.normalize)
    sample = Reservoir(options.max_frames, options.seed)
    for utterance in utterances:
        sample.add(utterance.id, encode(encoder, utterance))
        if sample.n_utterances % 500 == 0:
            say(f"encoded {sample.n_utterances} utterances, {sample.n_frames} frames")
    data, fitted = quantizer_of(sample, options, encoder.sha256, encoder.normalized, say)
    options.path.write_bytes(data)
    return fitted


def encode(encoder: Encoder, utterance: Utterance) -> np.ndarray:
    """float32 `[T, d]`, on its own: batches would be as large as the shards, and the features must not depend on those."""
    return encoder.features([resample(utterance.samples, utterance.rate_hz, encoder.sample_rate_hz)])[0]


def quantizer_of(
    sample: Reservoir,
    options: FitUnitsOptions,
    encoder_sha256: str,
    normalized: bool | None,
    say: Callable[[str], None],
) -> tuple[bytes, FittedUnits]:
    """The bytes of the quantizer fitted on a sample of frames, and its figures. Raises ValueError for too few frames."""
    frames = sample.sample()
    say(f"k-means: {options.k} centroids of {len(frames)} of {sample.n_frames} frames")
    centroids = kmeans.fit(frames, options.k, options.seed)
    # As the file keeps them, so that the figures are those of the file.
    centroids = centroids.astype(np.float16).astype(np.float32)
    units = kmeans.assign(frames, centroids)
    distortion = np.square(frames - centroids[units]).sum(1).mean() / frames.var(0).sum()
    coded = [kmeans.assign(features, centroids) for _, features in sample.heard.values()]
    runs = sum(len(kmeans.dedup(c)[0]) for c in coded)
    fitted = FittedUnits(
        options.path,
        sample.n_utterances,
        sample.n_frames,
        float(distortion),
        len(np.unique(units)),
        sum(map(len, coded)) / max(1, runs),
    )
    made = Quantizer(centroids, options.model, encoder_sha256, options.layer, options.data, normalized)
    return made.as_bytes(), fitted
