"""What a mel codec is fitted on: crops of real utterances and of their sound, and what of them is audible."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Utterance
from tests.conftest import Clip
from transforms.codec import melspec
from transforms.codec.heard import Crops, Heard, audible, hear
from transforms.codec.vocoded import n_samples

FLOOR = math.log(melspec.FLOOR)


def counted(n_frames: int, stack: int, first: int = 0) -> Heard:
    """Each value says which mel frame of which utterance it is; each state which codec frame; each sample its own place."""
    mel = (first + torch.arange(n_frames * stack) / 100).expand(80, -1).half()
    return Heard(mel, mel[:1, ::stack].T.clone(), torch.arange(n_samples(n_frames * stack) + 1).short())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@settings(deadline=None)
@given(stack=st.integers(1, 4), lengths=st.lists(st.integers(4, 12), min_size=1, max_size=4))
def test_crops_are_stretches_of_long_enough_utterances_with_their_own_states(stack: int, lengths: list[int]) -> None:
    heard = [counted(n, stack, i) for i, n in enumerate(lengths)]
    if max(lengths) <= 4:
        with pytest.raises(ValueError, match="none of them longer than a crop of 4 vectors"):
            Crops(heard, stack, 4)
        return
    mels, states, sounds = Crops(heard, stack, 4).draw(20, 0.0, generator())
    assert mels.shape == (20, 80, 4 * stack)
    assert states.shape == (20, 4, 1)
    assert sounds.shape == (20, n_samples(4 * stack))
    torch.testing.assert_close(mels[:, 0, ::stack], states[..., 0])
    first_s = (mels[:, 0, 0].frac() * 100).round() * melspec.HOP / melspec.RATE_HZ
    torch.testing.assert_close(sounds[:, 0] * 32767 / 16000, first_s, atol=1 / 16000, rtol=0)
    assert {int(first) for first in mels[:, 0, 0]} <= {i for i, n in enumerate(lengths) if n > 4}


def test_an_utterance_is_drawn_as_often_as_it_is_long() -> None:
    heard = [counted(10, 1, 0), counted(30, 1, 1)]
    mels = Crops(heard, 1, 4).draw(4000, 0.0, generator()).mels
    assert (mels[:, 0, 0] >= 1).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_louder_crops_are_louder_in_every_band_and_none_falls_below_the_floor() -> None:
    sound = torch.full((n_samples(9),), 1000).short()
    heard = [Heard(torch.full((80, 9), FLOOR + 0.1).half(), torch.zeros(9, 0).half(), sound)]
    mels, _, sounds = Crops(heard, 1, 4).draw(200, 6.0, generator())
    assert mels.min().item() == pytest.approx(FLOOR)
    assert mels.max().item() == pytest.approx(FLOOR + 0.1 + 6 * math.log(10) / 20, abs=0.05)
    assert (mels.amax((1, 2)) == mels.amin((1, 2))).all()
    louder = mels[:, 0, 0] > heard[0].mel[0, 0].float()
    assert ((sounds * 32767 > 1000) == louder[:, None]).all()


def test_speech_is_heard_as_its_log_mel_and_one_utterance_in_forty_is_kept_out(speech: list[Clip]) -> None:
    clip = speech[0]
    short = Utterance("1", -1, 0, 40, clip.samples[:40], 16000)
    spoken = [Utterance(str(i), -1, 0, len(clip.samples), clip.samples, 16000) for i in range(60)]
    fitted, heldout = hear([*spoken, short], None, 4, True, lambda _: None)
    kept_out = sum(int(utterance.id, 16) % 40 == 0 for utterance in spoken)
    assert (len(fitted), len(heldout)) == (60 - kept_out, kept_out)
    assert kept_out > 0
    n_frames = round(len(clip.samples) * melspec.RATE_HZ / 16000) // (4 * melspec.HOP)
    assert fitted[0].mel.shape == (80, 4 * n_frames)
    assert fitted[0].states.shape == (n_frames, 0)
    np.testing.assert_allclose(fitted[0].sound / 32767, clip.samples, atol=1 / 32767)
    unheard, _ = hear(spoken, None, 4, False, lambda _: None)
    assert unheard[0].sound.shape == (0,)


def test_what_lies_far_below_the_voice_counts_little(speech: list[Clip]) -> None:
    def at(*decibels: float) -> torch.Tensor:
        levels = torch.tensor(decibels) * math.log(10) / 20
        return torch.cat([torch.zeros(1, 80, 100), levels.expand(1, 80, -1)], dim=2)

    torch.testing.assert_close(audible(at(3, -10, -30, -45, -60, -90))[0, 0, 100:], torch.tensor([1, 1, 1, 0.5, 0, 0]))
    samples = torch.from_numpy(speech[0].samples)
    weights = audible(melspec.log_mel(samples)[None])
    louder = audible(melspec.log_mel(samples * 3)[None])
    torch.testing.assert_close(weights, louder, atol=0.05, rtol=0)
    assert 0.3 < np.mean(weights.numpy()) < 0.95
