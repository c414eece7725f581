"""Mel filters and mel spectrograms of power, as librosa has them by default: what several published models were trained on."""

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


@lru_cache(maxsize=8)
def filters(rate_hz: int, n_fft: int, n_mels: int, fmax_hz: float) -> np.ndarray:
    """float32 `[n_mels, n_fft // 2 + 1]`: triangles in the Slaney mel scale from 0 Hz, each of unit area in Hz."""
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(fmax_hz), n_mels + 2))
    bins = np.fft.rfftfreq(n_fft, 1 / rate_hz)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def mel_power(samples: np.ndarray, rate_hz: int, n_fft: int, hop: int, n_mels: int) -> np.ndarray:
    """float32 `[n]` -> float32 `[T, n_mels]`: power under a Hann window, frames centred, silence beyond both ends.

    T is `n // hop + 1`; of an odd n_fft, `(n - 1) // hop + 1`.
    """
    padded = np.pad(samples.astype(np.float32, copy=False), n_fft // 2)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    frames = sliding_window_view(padded, n_fft)[::hop]
    spectrum = np.fft.rfft(frames * window, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    mel: np.ndarray = power.astype(np.float32) @ filters(rate_hz, n_fft, n_mels, rate_hz / 2).T
    return mel


def _hz_to_mel(hz: float) -> float:
    """Slaney's scale: linear below 1 kHz (15 mel), logarithmic above (27 mel for each factor of 6.4)."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * float(np.log(hz / 1000)) / float(np.log(6.4))


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
