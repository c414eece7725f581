"""DNSMOS against the package that the networks come from, and against what it should hear."""

import numpy as np
import pytest

from tests.conftest import Clip
from transforms.dnsmos import DnsMos
from transforms.resample import resample
from transforms.weights import locate

# speechmos 0.0.1.1 with onnxruntime 1.32, on LJ001-0001 (9.7 s, one window) and LJ001-0002 (1.9 s, repeated) brought to
# 16 kHz by soxr: overall, speech, background, P.808.
PACKAGE = {0: (3.333727, 3.622180, 4.036641, 4.123563), 1: (2.832084, 3.574184, 3.205652, 3.524167)}


@pytest.fixture(scope="module")
def dnsmos() -> DnsMos:
    return DnsMos(locate("dnsmos").path)


@pytest.mark.parametrize("number", PACKAGE)
def test_the_figures_are_the_packages(dnsmos: DnsMos, ljspeech: list[Clip], number: int) -> None:
    clip = ljspeech[number]
    found = dnsmos.score(resample(clip.samples, clip.rate_hz, 16000))
    ours = [found[name] for name in ("overall", "speech", "background", "p808")]
    assert ours == pytest.approx(PACKAGE[number], abs=1e-3)


def test_noise_is_heard(dnsmos: DnsMos, ljspeech: list[Clip]) -> None:
    clean = resample(ljspeech[0].samples, ljspeech[0].rate_hz, 16000)
    noisy = clean + np.random.default_rng(0).normal(0, 0.02, len(clean)).astype(np.float32)
    before, after = dnsmos.score(clean), dnsmos.score(noisy)
    assert all(after[name] < before[name] - 0.3 for name in ("overall", "background", "p808"))


def test_digital_silence_has_figures(dnsmos: DnsMos) -> None:
    assert all(np.isfinite(score) for score in dnsmos.score(np.zeros(150000, np.float32)).values())
