"""The codec's teacher: states at the codec's frames, and what a fit with it does to the first codebook."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.content import Codes, phones_at, purity
from schemas import Utterance
from tests.conftest import Clip, read_clips
from transforms.codec import melspec
from transforms.codec.distil import ContentHead, Teacher, between
from transforms.codec.fit import FitCodecOptions, fit_codec
from transforms.codec.network import MelCodecNetwork
from transforms.units.whisper import WhisperEncoder

HOP = 2 * melspec.HOP


def spoken(samples: np.ndarray, rate_hz: int = 16000, name: str = "1") -> Utterance:
    return Utterance(name, -1, 0, len(samples), samples, rate_hz)


@given(n=st.integers(1, 40), at=st.lists(st.floats(-5, 60), max_size=20), slope=st.floats(-3, 3))
def test_between_frames_a_line_stays_a_line(n: int, at: list[float], slope: float) -> None:
    frames = np.stack([slope * np.arange(n) + 1, -np.arange(n)], axis=1).astype(np.float32)
    read = between(frames, np.array(at))
    inside = np.clip(np.array(at), 0, n - 1)
    np.testing.assert_allclose(read, np.stack([slope * inside + 1, -inside], axis=1), atol=1e-4)


def test_states_stand_at_the_middle_of_the_codecs_frames(speech: list[Clip]) -> None:
    """One codec frame and a half are 0.0348 s, 1.741 frames of the encoder."""
    samples = speech[0].samples[: 16000 * 3]
    states = Teacher("whisper-tiny", 2).states(spoken(samples), 129, HOP)
    assert states.shape == (129, 384)
    assert states.dtype == torch.float16
    whole = WhisperEncoder("whisper-tiny", 2).features([np.pad(samples, (0, 320))])[0]
    at = 1.5 * HOP / melspec.RATE_HZ * 50
    expected = (2 - at) * whole[1] + (at - 1) * whole[2]
    np.testing.assert_allclose(states[1].float().numpy(), expected, atol=2e-2)


def test_sound_longer_than_the_encoder_reads_goes_through_in_parts(speech: list[Clip]) -> None:
    long = np.tile(speech[0].samples, 4)[: 16000 * 33]
    teacher = Teacher("whisper-tiny", 1)
    n_frames = int(33 * melspec.RATE_HZ) // HOP
    states = teacher.states(spoken(long), n_frames, HOP)
    assert states.shape == (n_frames, 384)
    alone = teacher.states(spoken(long[16000 * 30 :]), 120, HOP).float()
    # Both run on the same three seconds; 30 s are 1,292 codec frames less a tenth of one.
    torch.testing.assert_close(states[1292:1412].float(), alone, atol=1.0, rtol=0.2)


def test_the_head_measures_cosine_distance_in_units_of_the_datas_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    states = (torch.randn(2000, 6, generator=generator) * torch.tensor([1, 1, 1, 1, 1, 90.0]) + 5).half()
    head = ContentHead(6, states)
    with torch.no_grad():
        head.map.weight.copy_(torch.eye(6))
        head.map.bias.zero_()
    normal = (states.float() - head.mean) / head.deviation
    assert head.distance(3 * normal, states.float()).item() == pytest.approx(0, abs=1e-5)
    assert head.distance(-normal, states.float()).item() == pytest.approx(2, abs=1e-5)
    # The dimension that is 90 times as wide as the others does not drown them.
    assert head.distance(normal * torch.tensor([1, 1, 1, 1, 1, 0.0]), states.float()).item() < 0.15


@pytest.mark.parametrize(("content_blocks", "guess_width"), [(0, 0), (0, 16), (2, 0)])
def test_a_teacher_makes_the_first_codebook_say_what_it_says(
    tmp_path: Path, speech: list[Clip], content_blocks: int, guess_width: int
) -> None:
    """Fitted on the same clips and as long, with a weight and with next to none."""
    utterances = [spoken(c.samples, name=str(i)) for i, c in enumerate(speech[:3])]
    shape: dict[str, Any] = {"data": "test", "size": 32, "levels": 2, "steps": 60, "steps_plain": 30, "batch": 4}
    shape |= {"crop_vectors": 32, "learning_rate": 6e-3, "heard_weight": 0}
    shape |= {"content_blocks": content_blocks, "guess_width": guess_width}
    cosines = []
    for weight in (1.0, 1e-9):
        options = FitCodecOptions(path=tmp_path / f"{weight}.safetensors", distil_weight=weight, **shape)
        cosines.append(fit_codec(utterances, options, lambda _: None).content)
    taught, hardly = cosines
    assert taught is not None
    assert hardly is not None
    assert taught > hardly + 0.1


def test_the_first_codebook_of_a_branch_is_a_code_of_its_own() -> None:
    """Its codes do not depend on how much of the rest is kept, and in training a crop of one codebook hears nothing of the rest."""
    torch.manual_seed(0)
    network = MelCodecNetwork(channels=32, levels=3, size=16, code_dim=8, content_blocks=1)
    network.initialise(network.latent(torch.randn(4, 80, 2 * 64)), torch.Generator().manual_seed(0))
    log_mel = torch.randn(80, 40)
    codes = network.eval().encode(log_mel)
    assert codes.shape == (3, 20)
    latent = network.latent(log_mel[None]).repeat(3, 1, 1)
    quantised = network.quantise(latent, torch.tensor([1, 2, 3]), torch.Generator())
    torch.testing.assert_close(quantised.first[0], network.first(codes))
    for k in (1, 2, 3):
        torch.testing.assert_close(
            network.restore(quantised.vectors[k - 1 : k])[0], network.decode(codes[:k]), atol=1e-4, rtol=1e-4
        )


def test_the_embedded_codecs_first_codebook_says_phones(shared: Path) -> None:
    """Its purity is that of units rather than that of a codebook that codes sound (0.43 before it was taught); the second codes
    the other half of a frame with the same entries."""
    codes = Codes("antiphon-codec")
    found = read_clips("ljspeech.jsonl", 20)
    coded = [codes.of(clip) for clip in found]
    said: list[np.ndarray] = []
    for first_s in codes.first_s[:4]:
        times = [first_s + np.arange(c.shape[1]) / codes.rate_hz for c in coded]
        said.append(np.concatenate([phones_at(clip, t) for clip, t in zip(found, times, strict=True)]))
    names = np.unique(np.stack(said), return_inverse=True)[1].reshape(4, -1)
    silent = np.stack(said) == ""

    def of(*books: int) -> float:
        rows = [np.concatenate([c[k] for c in coded])[~silent[k]] for k in books]
        return purity(np.concatenate(rows), np.concatenate([names[k][~silent[k]] for k in books]))

    assert of(0, 1) > 0.5
    # With as many frames, and codes that are nobody's but theirs.
    assert of(0) + of(1) > of(2) + of(3) + 0.06
