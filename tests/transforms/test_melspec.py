"""The log-mel spectrogram of HiFi-GAN's recipe, against librosa, a plain Fourier transform and its own frame rule."""

import librosa
import numpy as np
import pytest
import torch

from tests.conftest import Clip
from transforms.codec import melspec


def test_filters_are_librosas() -> None:
    theirs = librosa.filters.mel(
        sr=melspec.RATE_HZ, n_fft=melspec.N_FFT, n_mels=melspec.N_MELS, fmin=0, fmax=melspec.FMAX_HZ
    )
    np.testing.assert_allclose(melspec.filters().numpy(), theirs, atol=1e-8)


def test_log_mel_is_that_of_a_plain_fourier_transform(ljspeech: list[Clip]) -> None:
    clip = ljspeech[0]
    assert clip.rate_hz == melspec.RATE_HZ
    padded = np.pad(clip.samples, 384, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::256]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(1025)[:-1], axis=1)).T
    theirs = np.log(np.clip(melspec.filters().numpy() @ spectrum, 1e-5, None))
    # The root's 1e-9 shows where there is next to no sound.
    np.testing.assert_allclose(melspec.log_mel(torch.from_numpy(clip.samples)).numpy(), theirs, atol=0.05)


@pytest.mark.parametrize("n", [511, 512, 513, 767, 768, 22050])
def test_one_frame_for_each_whole_hop(n: int) -> None:
    mel = melspec.log_mel(torch.zeros(n))
    assert mel.shape == (80, n // 256)
    # Silence: the root of 1e-9 through filters of about unit area in Hz, far below speech.
    assert float(mel.max()) < -10
