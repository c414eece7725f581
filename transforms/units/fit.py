"""Fit the centroids of a unit tokenizer: a uniform sample of encoder frames, then k-means."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas import Utterance
from transforms.options import Options
from transforms.resample import resample
from transforms.units import kmeans
from transforms.units.quantizer import Quantizer
from transforms.units.stage import UnitsOptions, make_encoder

_DEFAULT = UnitsOptions()

_N_HEARD = 100
"""Utterances on which the figures are measured, the first ones."""


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
    k: int = 500
    """Number of units."""
    max_frames: int = 200_000
    """Frames that k-means sees, drawn uniformly from all; 200,000 frames of 384 floats take 300 MB."""
    seed: int = 0
    """Seed of the draw and of k-means."""


@dataclass(frozen=True, slots=True)
class FittedUnits:
    """What was written, and figures from the first 100 utterances.

    Attributes:
        n_utterances, n_frames: all that were encoded.
        distortion: mean squared distance of a frame from its centroid, over the frames' variance; 0 is perfect.
        used: units that occur. mean_run_frames: mean run length.
    """

    path: Path
    n_utterances: int
    n_frames: int
    distortion: float
    used: int
    mean_run_frames: float


class FrameSample:
    """A uniform sample of at most `size` of all frames added. Which ones does not depend on the order of the utterances."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._keys: list[np.ndarray] = []
        self._frames: list[np.ndarray] = []
        self._n = 0

    def add(self, utterance_id: str, features: np.ndarray) -> None:
        """Every frame of `[T, d]` draws a number from its utterance's id; the `size` smallest of all stay."""
        random = np.random.default_rng([self._seed, int(utterance_id, 16)])
        self._keys.append(random.random(len(features)))
        self._frames.append(features)
        self._n += len(features)
        if self._n > 2 * self._size:
            self._keep_smallest()

    def frames(self) -> np.ndarray:
        """float32 `[N, d]`, N at most `size`, in the order of the numbers drawn. Raises ValueError where nothing was added."""
        if not self._frames:
            raise ValueError("no utterances to fit units on")
        self._keep_smallest()
        return self._frames[0]

    def _keep_smallest(self) -> None:
        keys, frames = np.concatenate(self._keys), np.concatenate(self._frames)
        kept = np.argsort(keys, kind="stable")[: self._size]
        self._keys, self._frames, self._n = [keys[kept]], [frames[kept]], len(kept)


def fit_units(utterances: Iterable[Utterance], options: FitUnitsOptions, say: Callable[[str], None]) -> FittedUnits:
    """Encode all utterances, fit the centroids and write them to `options.path`; the same input gives the same bytes.

    Args:
        utterances: read once; need samples only.
        say: told of progress.

    Raises:
        ValueError: fewer frames than units.
        MissingWeights: the encoder is not on this machine.
    """
    encoder = make_encoder(options.backend, options.model, options.layer)
    sample = FrameSample(options.max_frames, options.seed)
    heard: list[np.ndarray] = []
    n_utterances = n_frames = 0
    for utterance in utterances:
        features = encoder.features([resample(utterance.samples, utterance.rate_hz, encoder.sample_rate_hz)])[0]
        sample.add(utterance.id, features)
        n_utterances, n_frames = n_utterances + 1, n_frames + len(features)
        if len(heard) < _N_HEARD:
            heard.append(features)
        if n_utterances % 500 == 0:
            say(f"encoded {n_utterances} utterances, {n_frames} frames")
    frames = sample.frames()
    say(f"k-means: {options.k} centroids of {len(frames)} of {n_frames} frames")
    centroids = kmeans.fit(frames, options.k, options.seed)
    # As the file keeps them, so that the figures are those of the file.
    centroids = centroids.astype(np.float16).astype(np.float32)
    Quantizer(centroids, options.model, encoder.sha256, options.layer, options.data).save(options.path)
    return _figures(options.path, n_utterances, n_frames, heard, centroids)


def _figures(
    path: Path, n_utterances: int, n_frames: int, heard: list[np.ndarray], centroids: np.ndarray
) -> FittedUnits:
    coded = [kmeans.assign(features, centroids) for features in heard]
    frames, units = np.concatenate(heard), np.concatenate(coded)
    distortion = np.square(frames - centroids[units]).sum(1).mean() / frames.var(0).sum()
    runs = [len(kmeans.dedup(c)[0]) for c in coded]
    return FittedUnits(
        path, n_utterances, n_frames, float(distortion), len(np.unique(units)), len(units) / max(1, sum(runs))
    )
