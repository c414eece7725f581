"""The fundamental frequency of a voice by YIN: the lag at which a frame differs least from itself.

De Cheveigné and Kawahara 2002, "YIN, a fundamental frequency estimator for speech and music", steps 2 to 5: the difference
function (here from autocorrelations by FFT, over all frames at once), its cumulative mean normalisation, an absolute threshold,
and a parabola through the minimum.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from transforms.resample import resample

RATE_HZ = 16000
HOP = 160
LEAST_HZ, MOST_HZ = 60.0, 500.0
_WINDOW = 400
"""Samples compared at each lag: 25 ms."""
_SHORTEST, _LONGEST = int(RATE_HZ / MOST_HZ), int(RATE_HZ / LEAST_HZ) + 1
_AT_ONCE = 1000


def f0_hz(samples: np.ndarray, rate_hz: int, threshold: float = 0.15) -> np.ndarray:
    """float32 `[n]` -> float32 Hz `[T]`, one every 10 ms, 0.0 in unvoiced frames; none for less than 42 ms.

    Args:
        threshold: voiced frames have a lag whose normalised difference is under it. The paper has 0.1 to 0.15.
    """
    x = resample(samples, rate_hz, RATE_HZ)
    length = _WINDOW + _LONGEST
    if len(x) < length:
        return np.zeros(0, np.float32)
    frames = sliding_window_view(x, length)[::HOP]
    parts = [_voiced(frames[at : at + _AT_ONCE], threshold) for at in range(0, len(frames), _AT_ONCE)]
    return np.concatenate(parts).astype(np.float32)


def _voiced(frames: np.ndarray, threshold: float) -> np.ndarray:
    """`[T, 667]` -> Hz `[T]`."""
    d = normalised_difference(frames)
    lags = np.arange(_SHORTEST, _LONGEST)
    # The first dip under the threshold, not the deepest: the deepest may be an octave lower.
    dips = (d[:, lags] < threshold) & (d[:, lags] <= d[:, lags + 1]) & (d[:, lags] < d[:, lags - 1])
    lag = lags[np.argmax(dips, axis=1)]
    row = np.arange(len(d))
    before, at, after = d[row, lag - 1], d[row, lag], d[row, lag + 1]
    curve = before - 2 * at + after
    shift = np.where(curve > 0, (before - after) / np.maximum(2 * curve, 1e-12), 0.0)
    return np.where(dips.any(axis=1), RATE_HZ / (lag + shift), 0.0)


def normalised_difference(frames: np.ndarray) -> np.ndarray:
    """`[T, window + longest]` -> `[T, longest + 1]`: d(lag) over the mean of d(1) to d(lag); 1 at lag 0 and in digital silence."""
    x = frames.astype(np.float64)
    size = 1024
    assert x.shape[1] <= size, "a longer frame would wrap around"
    first = np.fft.rfft(x[:, :_WINDOW], size)
    correlation = np.fft.irfft(first.conj() * np.fft.rfft(x, size), size)[:, : _LONGEST + 1]
    energy = np.cumsum(np.pad(np.square(x), ((0, 0), (1, 0))), axis=1)
    energy = energy[:, _WINDOW:] - energy[:, :-_WINDOW]
    # Rounding leaves a little below nothing where a signal repeats itself exactly.
    d = np.maximum(energy[:, :1] + energy[:, : _LONGEST + 1] - 2 * correlation, 0.0)
    d[:, 0] = 0.0
    lags = np.arange(_LONGEST + 1)
    total = np.cumsum(d, axis=1)
    # Under a hundredth of a 16-bit step's energy there is nothing to compare.
    heard = (energy[:, :1] > _WINDOW * (0.1 / 32768) ** 2) & (total > 0)
    return np.where(heard & (lags > 0), d * lags / np.where(total > 0, total, 1.0), 1.0)
