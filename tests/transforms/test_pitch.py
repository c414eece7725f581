"""The fundamental frequency: of signals whose own is known, and of a voice against librosa's pYIN."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Clip
from transforms.pitch import f0_hz, normalised_difference
from transforms.resample import resample


def buzz(hz: float, seconds: float = 0.3, rate_hz: int = 16000) -> np.ndarray:
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    return sum(0.2 / k * np.sin(2 * np.pi * hz * k * t) for k in range(1, 6)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.floats(65, 480), st.floats(0.001, 1.0))
def test_a_buzz_has_its_own_pitch_at_any_loudness(hz: float, gain: float) -> None:
    np.testing.assert_allclose(f0_hz(gain * buzz(hz), 16000), hz, rtol=3e-3)


@pytest.mark.parametrize("rate_hz", [8000, 22050, 48000])
def test_any_rate_will_do(rate_hz: int) -> None:
    found = f0_hz(buzz(150, 1.0, rate_hz), rate_hz)
    assert np.median(found) == pytest.approx(150, rel=3e-3)


def test_silence_and_noise_have_none() -> None:
    assert not f0_hz(np.zeros(16000, np.float32), 16000).any()
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    assert (f0_hz(noise, 16000) > 0).mean() < 0.02
    assert len(f0_hz(np.zeros(500, np.float32), 16000)) == 0


def test_the_difference_is_that_of_its_definition() -> None:
    frame = np.random.default_rng(1).normal(0, 0.1, 667)
    window = frame[:400]
    d = np.array([np.square(window - frame[lag : lag + 400]).sum() for lag in range(268)])
    wanted = d[1:] * np.arange(1, 268) / np.cumsum(d[1:])
    np.testing.assert_allclose(normalised_difference(frame[None])[0, 1:], wanted, rtol=1e-6)


def test_a_reader_has_the_pitch_that_pyin_finds(ljspeech: list[Clip]) -> None:
    import librosa

    samples = resample(ljspeech[0].samples, ljspeech[0].rate_hz, 16000)[:48000]
    ours = f0_hz(samples, 16000)
    theirs = librosa.pyin(samples, fmin=60, fmax=500, sr=16000, frame_length=1024, hop_length=160)[0]
    # pYIN's frames stand for their centres, ours for 2 frames (half of 667 samples) after their start.
    theirs = np.nan_to_num(theirs)[2 : 2 + len(ours)]
    both = (ours > 0) & (theirs > 0)
    assert both.sum() > 60
    assert (np.abs(ours[both] / theirs[both] - 1) > 0.2).mean() < 0.05
    assert np.median(ours[both]) == pytest.approx(np.median(theirs[both]), rel=0.02)
