"""Mel spectrograms of power, against librosa."""

import librosa
import numpy as np
import pytest

from transforms.mel import mel_power


@pytest.mark.parametrize(("n_fft", "n_mels"), [(400, 40), (321, 120)])
@pytest.mark.parametrize("n", [1, 160, 7999, 8000, 16001])
def test_power_is_librosas(n_fft: int, n_mels: int, n: int) -> None:
    samples = np.random.default_rng(n).normal(0, 0.1, n).astype(np.float32)
    theirs = librosa.feature.melspectrogram(y=samples, sr=16000, n_fft=n_fft, hop_length=160, n_mels=n_mels).T
    ours = mel_power(samples, 16000, n_fft, 160, n_mels)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-8)
