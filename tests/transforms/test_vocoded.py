"""What a recogniser hears of a log-mel once it is sound, foretold, and how a codec is fitted by it."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from whisper.audio import log_mel_spectrogram

from schemas import Utterance
from tests.conftest import Clip
from transforms.codec import melspec
from transforms.codec.fit import FitCodecOptions, fit_codec
from transforms.codec.hifigan import Vocoder
from transforms.codec.listen import Listener, balanced
from transforms.codec.mel import VOCODER, load_network
from transforms.codec.vocoded import VocodedCrops, VocodedMel, fit_vocoded, log_power, n_samples, scaled, vocode
from transforms.resample import resample


def crops(speech: list[Clip], n_frames: int, count: int) -> Tensor:
    """Log-mels `[count, 80, n_frames]`, from the beginning of the clips on."""
    whole = [melspec.log_mel(torch.from_numpy(resample(c.samples, 16000, melspec.RATE_HZ))) for c in speech]
    return torch.stack(
        [mel[:, i : i + n_frames] for mel in whole for i in range(0, mel.shape[1] - n_frames, n_frames)][:count]
    )


@cache
def vocoder() -> Vocoder:
    return Vocoder(VOCODER)


def test_what_is_read_off_a_sound_is_whispers_log_mel(speech: list[Clip]) -> None:
    sounds = torch.stack(
        [torch.from_numpy(c.samples[:32000]) * gain for c, gain in zip(speech[:3], (1, 2, 5), strict=True)]
    )
    made = scaled(log_power(sounds))
    for sound, mel in zip(sounds, made, strict=True):
        torch.testing.assert_close(mel, log_mel_spectrogram(sound), atol=1e-4, rtol=0)


@settings(deadline=None)
@given(st.integers(1, 300))
def test_there_are_as_many_frames_as_whisper_makes_of_the_sound(n_mel_frames: int) -> None:
    with torch.inference_mode():
        made = VocodedMel(width=4, n_blocks=1)(torch.zeros(2, 80, n_mel_frames))
    assert made.shape == (2, 80, n_samples(n_mel_frames) // 160)
    if n_samples(n_mel_frames) > 400:
        assert log_power(torch.zeros(1, n_samples(n_mel_frames))).shape[2] == made.shape[2]


def test_a_click_is_read_where_it_sounds() -> None:
    """Before anything is learnt. A click at 0.5 s is at its loudest in the frames on either side of it."""
    samples = np.zeros(melspec.RATE_HZ, np.float32)
    samples[melspec.RATE_HZ // 2] = 1.0
    with torch.inference_mode():
        made = VocodedMel()(melspec.log_mel(torch.from_numpy(samples))[None])[0].mean(0)
    weights = 10**made - (10**made).min()
    assert (weights * torch.arange(len(made)) / 100).sum() / weights.sum() == pytest.approx(0.5, abs=1e-3)


def test_the_vocoders_part_is_learnt(speech: list[Clip]) -> None:
    """On 24 real crops, judged on others."""
    made = vocode(crops(speech, 64, 48), vocoder(), lambda _: None)
    length = n_samples(64) // 160
    assert made.powers.shape == (48, 80, length)
    said: list[str] = []
    network = fit_vocoded(VocodedCrops(made.mels[:24], made.powers[:24]), 150, 0, False, said.append)
    wanted = scaled(made.powers[24:].float())
    with torch.inference_mode():
        before, after = (
            (scaled(n(made.mels[24:].float())) - wanted).abs().mean().item() for n in (VocodedMel(), network)
        )
    assert after < 0.9 * before
    assert "kept out" in said[0]


def test_a_listener_orders_what_is_like_speech_and_shows_the_way_to_it(speech: list[Clip]) -> None:
    """A fit as short as a test's says nothing: with and without a listener it ends now nearer, now farther, by seed and threads."""
    listener = Listener("whisper-tiny", VocodedMel().requires_grad_(False))
    mel, other = crops(speech, 160, 2)[:, None]
    sound = torch.from_numpy(speech[0].samples)[None, : n_samples(160)]
    noise = torch.randn(mel.shape, generator=torch.Generator().manual_seed(0))
    distances = [listener.distance(mel + share * noise, sound).item() for share in (0, 0.1, 0.3, 1)]
    assert distances == sorted(distances)
    assert distances[0] < listener.distance(other, sound).item()
    moved = (mel + noise).requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        listener.distance(moved, sound).backward()
        optimizer.step()
    assert listener.distance(moved, sound).item() < (distances[0] + distances[3]) / 2


def test_balanced_gradients_keep_their_directions_and_have_the_norm_of_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(3, 4, 5, generator=generator) * torch.tensor([1e-6, 1.0, 1e4])[:, None, None]
    others = torch.randn(7, 4, 5, generator=generator)
    made = balanced(gradient, others)
    torch.testing.assert_close(made.flatten(1).norm(dim=1), others.flatten(1).norm(dim=1).mean().expand(3))
    assert torch.cosine_similarity(made.flatten(1), gradient.flatten(1)).min() > 0.9999
    assert not balanced(torch.zeros(2, 3), others).any()


def test_a_fit_listens_in_the_last_share_of_its_steps(tmp_path: Path, speech: list[Clip]) -> None:
    spoken = [Utterance(str(i), -1, 0, len(c.samples), c.samples, 16000) for i, c in enumerate(speech[:3])]
    shape: dict[str, Any] = {"data": "test", "size": 16, "levels": 2, "steps": 20, "steps_plain": 10, "batch": 4}
    shape |= {"crop_vectors": 32, "distil_weight": 0, "heard_share": 0.5, "vocoded_crops": 4, "vocoded_steps": 2}
    shape |= {"log_every": 10}
    said: list[str] = []
    made = [
        load_network(
            fit_codec(spoken, FitCodecOptions(path=tmp_path / "c", heard_weight=weight, **shape), said.append).path
        )
        for weight in (1.0, 0.0)
    ]
    lines = [line for line in said if line.startswith("step")]
    assert ["heard" in line for line in lines] == [False, True, False, False]
    assert not torch.equal(made[0].leave.weight, made[1].leave.weight)
