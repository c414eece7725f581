"""How near a codec's sound is to the original: Codec-SUPERB's signal measures (arXiv 2402.13071), on 16 kHz.

PESQ, STOI and SI-SDR come from pesq, pystoi and torchmetrics. The two spectral distances are those of Codec-SUPERB's
SoundCodec/metrics.py, which has them from descript-audiotools: over windows of 2,048 and 512 samples, a quarter of a window
apart, the mean absolute difference of magnitudes plus that of log10 of the squared magnitudes, clipped at 1e-5 before.
"""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from transforms import mel
from transforms.pitch import f0_hz

RATE_HZ = 16000
MEASURES = ("pesq_wb", "stoi", "mel_distance", "stft_distance", "si_sdr_db", "f0_correlation")
_WINDOWS = (2048, 512)
_N_MELS = (150, 80)
_FLOOR = 1e-5
_LEAST_STOI_S = 0.4
"""30 frames of 12.8 ms: STOI compares stretches of that length."""
_APERIODIC = 0.3
"""YIN's threshold, twice the usual: with that, only frames so clear are compared that nearly any codec keeps their pitch."""
_LEAST_VOICED = 10
"""Frames of 10 ms; a correlation over fewer says nothing."""


def compare(original: np.ndarray, heard: np.ndarray) -> dict[str, float]:
    """MEASURES of float32 `[n]` against float32 `[n]`, both at 16 kHz; NaN for what cannot be measured on this clip.

    Raises ValueError where the lengths differ.
    """
    if original.shape != heard.shape:
        raise ValueError(f"{len(heard)} samples against {len(original)}")
    return {
        "pesq_wb": _pesq(original, heard),
        "stoi": _stoi(original, heard),
        "mel_distance": mel_distance(original, heard),
        "stft_distance": stft_distance(original, heard),
        "si_sdr_db": _si_sdr(original, heard),
        "f0_correlation": f0_correlation(original, heard),
    }


def means(reports: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """The mean of each measure over the clips that have it, None where none has."""
    found: dict[str, float | None] = {}
    for name in MEASURES:
        values = [report[name] for report in reports if not math.isnan(report[name])]
        found[name] = float(np.mean(values)) if values else None
    return found


def _pesq(original: np.ndarray, heard: np.ndarray) -> float:
    """ITU-T P.862.2, -0.5 to 4.64; NaN where it finds no speech or the clip is shorter than a quarter of a second."""
    from pesq import PesqError, pesq

    if not heard.any():
        return math.nan
    try:
        return float(pesq(RATE_HZ, original, heard, "wb"))
    except PesqError:
        return math.nan


def _stoi(original: np.ndarray, heard: np.ndarray) -> float:
    """Taal et al. 2011; NaN for less than 0.4 s of speech."""
    from pystoi import stoi

    if len(original) < _LEAST_STOI_S * RATE_HZ:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(stoi(original, heard, RATE_HZ))
        except RuntimeWarning:
            return math.nan


def _si_sdr(original: np.ndarray, heard: np.ndarray) -> float:
    """Le Roux et al. 2019, means removed, in dB; NaN for silence."""
    import torch
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr

    if not original.any() or not heard.any():
        return math.nan
    made, target = (torch.from_numpy(x.astype(np.float64)) for x in (heard, original))
    return float(si_sdr(made, target, zero_mean=True))


def stft_distance(original: np.ndarray, heard: np.ndarray) -> float:
    return sum(_spectral(_magnitudes(original, n), _magnitudes(heard, n)) for n in _WINDOWS)


def mel_distance(original: np.ndarray, heard: np.ndarray) -> float:
    """As `stft_distance`, through 150 and 80 Slaney mel bands of unit area up to 8 kHz."""
    total = 0.0
    for n_fft, n_mels in zip(_WINDOWS, _N_MELS, strict=True):
        filters = mel.filters(RATE_HZ, n_fft, n_mels, RATE_HZ / 2).T
        total += _spectral(_magnitudes(original, n_fft) @ filters, _magnitudes(heard, n_fft) @ filters)
    return total


def _spectral(a: np.ndarray, b: np.ndarray) -> float:
    logs = [2 * np.log10(np.maximum(x, _FLOOR)) for x in (a, b)]
    return float(np.abs(a - b).mean() + np.abs(logs[0] - logs[1]).mean())


def _magnitudes(samples: np.ndarray, n_fft: int) -> np.ndarray:
    """`[n]` -> `[T, n_fft // 2 + 1]`, Hann windows centred, the ends mirrored."""
    reach = n_fft // 2
    padded = np.pad(samples.astype(np.float64), reach, mode="reflect" if len(samples) > reach else "constant")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[:: n_fft // 4]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return np.abs(np.fft.rfft(frames * window, axis=1))


def f0_correlation(original: np.ndarray, heard: np.ndarray) -> float:
    """Pearson's correlation of the pitch, in log Hz, over the frames that are voiced in both; NaN for fewer than 10.

    Codec-SUPERB warps the two contours onto each other first (DTW), which hides a pitch that comes late; here frames are
    compared at their own times, and the pitch is the project's own (YIN) instead of Praat's.
    """
    a, b = f0_hz(original, RATE_HZ, _APERIODIC), f0_hz(heard, RATE_HZ, _APERIODIC)
    both = (a > 0) & (b > 0)
    if both.sum() < _LEAST_VOICED:
        return math.nan
    a, b = np.log(a[both]), np.log(b[both])
    if a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
