"""Signal measures on real speech: nothing is nearer than the same sound, and more noise is further."""

import math

import numpy as np
import pytest
import torch

from pipeline.bench.signal import MEASURES, RATE_HZ, compare, f0_correlation, means, mel_distance, stft_distance
from tests.conftest import Clip

pytest.importorskip("pesq", reason="needs antiphon[bench]")
pytest.importorskip("torchmetrics", reason="needs antiphon[bench]")

BETTER_IS_MORE = ("pesq_wb", "stoi", "si_sdr_db", "f0_correlation")


@pytest.fixture(scope="module")
def clip(speech: list[Clip]) -> np.ndarray:
    return min((c.samples for c in speech), key=len)[: 6 * RATE_HZ]


def noisy(clip: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 1, len(clip))
    scale = clip.std() / noise.std() * 10 ** (-snr_db / 20)
    return (clip + scale * noise).astype(np.float32)


def test_the_same_sound_is_perfect(clip: np.ndarray) -> None:
    found = compare(clip, clip.copy())
    assert found["pesq_wb"] > 4.6
    assert found["stoi"] == pytest.approx(1.0, abs=1e-6)
    assert found["mel_distance"] == found["stft_distance"] == 0.0
    assert found["si_sdr_db"] > 80
    assert found["f0_correlation"] == pytest.approx(1.0)


def test_more_noise_is_worse_by_every_measure(clip: np.ndarray) -> None:
    reports = [compare(clip, noisy(clip, snr_db)) for snr_db in (40.0, 20.0, 5.0)]
    for name in MEASURES:
        values = [report[name] if name in BETTER_IS_MORE else -report[name] for report in reports]
        assert values[0] > values[1] > values[2] or (name == "f0_correlation" and values[0] > values[2]), name
    assert [report["si_sdr_db"] for report in reports] == pytest.approx([40.0, 20.0, 5.0], abs=0.5)


def test_loudness_and_sign_do_not_matter_to_si_sdr_and_pitch(clip: np.ndarray) -> None:
    found = compare(clip, -0.3 * clip)
    assert found["si_sdr_db"] > 80
    assert found["f0_correlation"] == pytest.approx(1.0, abs=1e-3)


def test_spectral_distances_are_the_formula(clip: np.ndarray) -> None:
    """Ten times as loud is 2 in log10 of the power, and 9 times the mean magnitude, in each of the two windows."""
    loud = np.random.default_rng(1).normal(0, 0.05, len(clip))
    expected = 0.0
    for n_fft in (2048, 512):
        spectrum = torch.stft(
            torch.from_numpy(loud), n_fft, n_fft // 4, window=torch.hann_window(n_fft).double(), return_complex=True
        )
        expected += 2.0 + 9 * float(spectrum.abs().mean())
    assert stft_distance(loud, 10 * loud) == pytest.approx(expected, rel=1e-3)
    assert mel_distance(loud, 10 * loud) > 4.0


def test_a_pitch_that_rises_where_the_other_falls_is_anti_correlated() -> None:
    seconds = np.arange(2 * RATE_HZ) / RATE_HZ
    up = np.sin(2 * np.pi * (120 * seconds + 20 * seconds**2)).astype(np.float32)
    assert f0_correlation(up, up[::-1].copy()) < -0.95


@pytest.mark.parametrize("seconds", [0.01, 0.1, 1.0])
def test_what_cannot_be_measured_is_left_out_of_the_mean(clip: np.ndarray, seconds: float) -> None:
    silence = np.zeros(int(seconds * RATE_HZ), dtype=np.float32)
    short = clip[RATE_HZ : RATE_HZ + len(silence)]
    found = [compare(short, silence), compare(silence, short)]
    assert all(math.isnan(report["pesq_wb"]) and math.isnan(report["f0_correlation"]) for report in found)
    assert means(found)["pesq_wb"] is None
    assert math.isfinite(found[0]["mel_distance"])
    with pytest.raises(ValueError, match="samples against"):
        compare(short, silence[:-1])
