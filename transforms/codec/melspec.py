"""The log-mel spectrogram that HiFi-GAN was trained on, to the sample.

Recipe: Kong et al., "HiFi-GAN" (arXiv 2010.05646), config_v1.json and meldataset.py of its repository: magnitudes of a
1024-point Hann-windowed STFT every 256 samples at 22.05 kHz, 384 samples of reflection on each side instead of centred
frames, 80 Slaney mel bands of unit area from 0 to 8 kHz, natural logarithm of what is clipped at 1e-5.
"""

from functools import lru_cache

import torch
from torch import Tensor

from transforms.mel import filters as mel_filters

RATE_HZ = 22050
HOP = 256
N_FFT = 1024
N_MELS = 80
FMAX_HZ = 8000.0
FLOOR = 1e-5
"""Magnitudes are clipped here, so no log-mel value is below log(1e-5) = -11.5."""

_PAD = (N_FFT - HOP) // 2


@lru_cache(maxsize=1)
def filters() -> Tensor:
    """float32 `[80, 513]`: triangles in the Slaney mel scale, each of unit area in Hz."""
    return torch.from_numpy(mel_filters(RATE_HZ, N_FFT, N_MELS, FMAX_HZ))


def log_mel(samples: Tensor) -> Tensor:
    """float32 `[n]` at 22.05 kHz, n > 384 -> float32 `[80, n // 256]`."""
    padded = torch.nn.functional.pad(samples[None, None], (_PAD, _PAD), mode="reflect")[0, 0]
    window = torch.hann_window(N_FFT, device=samples.device)
    spectrum = torch.stft(padded, N_FFT, HOP, window=window, center=False, return_complex=True)
    # The 1e-9 under the root is the recipe's own.
    magnitudes = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
    return torch.log(torch.clamp(filters().to(samples.device) @ magnitudes, min=FLOOR))
