"""The universal HiFi-GAN generator, as pulled."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.errors import UserError
from tests.conftest import Clip
from transforms.codec import hifigan, melspec
from transforms.codec.hifigan import Vocoder
from transforms.resample import resample
from transforms.weights import MissingWeights, locate


@pytest.fixture(scope="module")
def vocoder() -> Vocoder:
    try:
        return Vocoder("hifigan-universal")
    except MissingWeights as error:
        pytest.skip(str(error))


def test_speech_comes_back_from_its_spectrogram(vocoder: Vocoder, speech: list[Clip]) -> None:
    from pystoi import stoi

    clip = min(speech, key=lambda c: len(c.samples))
    given = resample(clip.samples, clip.rate_hz, melspec.RATE_HZ)
    log_mel = melspec.log_mel(torch.from_numpy(given))
    made = vocoder(log_mel).numpy()
    assert made.shape == (256 * log_mel.shape[1],)
    assert np.abs(made).max() <= 1
    assert stoi(given[: len(made)], made, melspec.RATE_HZ) > 0.9
    again = melspec.log_mel(torch.from_numpy(made))
    assert float((again - log_mel).abs().mean()) < 0.5


def test_a_generator_of_another_spectrogram_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mel\.json: missing"):
        hifigan.check_mel(tmp_path)
    theirs = {
        "rate_hz": 16000,
        "n_fft": 1024,
        "win_length": 1024,
        "hop_length": 256,
        "n_mels": 80,
        "fmin_hz": 0.0,
        "fmax_hz": 8000.0,
        "mel_scale": "slaney",
    }
    (tmp_path / "mel.json").write_text(json.dumps(theirs))
    with pytest.raises(UserError, match="rate_hz 16000 instead of 22050"):
        hifigan.check_mel(tmp_path)


def test_the_pulled_generator_is_of_our_spectrogram() -> None:
    try:
        hifigan.check_mel(locate("hifigan-universal").path)
    except MissingWeights as error:
        pytest.skip(str(error))
