"""What a codec's fit makes of its crops: on log-mels as on the sound itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Clip
from transforms.codec import melspec
from transforms.codec.augment import Augment, AugmentOptions, reverberant, stretched
from transforms.resample import resample

NOTHING = AugmentOptions(gain_db=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def crops(speech: list[Clip]) -> torch.Tensor:
    """Four crops of 1.5 s, `[4, 80, 128]`."""
    sounds = [resample(clip.samples, 16000, melspec.RATE_HZ)[20000 : 20000 + 128 * melspec.HOP] for clip in speech[:4]]
    return torch.stack([melspec.log_mel(torch.from_numpy(sound)) for sound in sounds])


def test_with_nothing_to_change_nothing_changes(crops: torch.Tensor) -> None:
    assert torch.equal(Augment(NOTHING, seeded())(crops), crops)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_what_is_drawn_stays_within_its_bounds(crops: torch.Tensor, seed: int) -> None:
    options = NOTHING.model_copy(update={"gain_db": 3.0, "curve_db": 4.0})
    made = Augment(options, seeded(seed))(crops)
    changed = (made - crops) * 20 / math.log(10)
    above = made > math.log(melspec.FLOOR)
    assert changed[above].abs().max() < 7.001
    # One curve for all frames of a crop.
    assert (changed - changed.mean(2, keepdim=True))[above].abs().max() < 1e-3 or not above.all()


def test_noise_and_rooms_add_to_the_share_of_the_crops_that_is_asked(crops: torch.Tensor) -> None:
    for options in ({"noisy_share": 1.0}, {"room_share": 1.0}):
        made = Augment(NOTHING.model_copy(update=options), seeded())(crops)
        assert (made > crops - 1e-4).all()
        assert (made - crops).amax((1, 2)).min() > 0.1
    half = Augment(NOTHING.model_copy(update={"noisy_share": 0.5}), seeded())(crops.repeat(16, 1, 1))
    touched = (half != crops.repeat(16, 1, 1)).flatten(1).any(1).float().mean()
    assert 0.3 < float(touched) < 0.7


def test_a_stretched_tone_is_a_tone_at_the_stretched_frequency() -> None:
    times = np.arange(64 * melspec.HOP) / melspec.RATE_HZ
    low, high = (
        melspec.log_mel(torch.from_numpy(np.sin(2 * np.pi * f * times).astype(np.float32))) for f in (2000, 2200)
    )
    made = stretched(low[None], torch.tensor([1.1]))[0]
    assert int(made[:, 30].argmax()) == pytest.approx(int(high[:, 30].argmax()), abs=1)
    assert int(low[:, 30].argmax()) < int(high[:, 30].argmax()) - 1
    assert torch.allclose(stretched(low[None], torch.ones(1))[0], low, atol=1e-4)


def test_a_room_on_log_mels_is_like_the_same_room_on_the_sound(speech: list[Clip]) -> None:
    """Polack's model: noise that decays exponentially, 60 dB in half a second, of the power of the direct sound."""
    sound = resample(speech[0].samples, 16000, melspec.RATE_HZ)[: 256 * melspec.HOP]
    random = np.random.default_rng(0)
    times = np.arange(melspec.HOP, round(0.6 * melspec.RATE_HZ)) / melspec.RATE_HZ
    tail = random.standard_normal(len(times)) * 10 ** (-3 * times / 0.5)
    response = np.concatenate([[1.0], np.zeros(melspec.HOP - 1), tail / np.sqrt((tail**2).sum())])
    real = melspec.log_mel(torch.from_numpy(np.convolve(sound, response)[: len(sound)].astype(np.float32)))
    plain = melspec.log_mel(torch.from_numpy(sound))
    made = reverberant(plain[None], torch.tensor([0.5]), torch.tensor([0.0]))[0]
    off, without = (float((real - mel).abs().mean()) for mel in (made, plain))
    assert off < 0.5 * without
    assert abs(float((real - made).mean())) < 0.2
