"""The units stage on real speech with Whisper tiny's encoder and the embedded centroids."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from schemas import Block, Reason, Utterance
from tests.conftest import Clip
from transforms.units import kmeans, quantizer
from transforms.units.fit import FitUnitsOptions, fit_units
from transforms.units.stage import Units, UnitsOptions
from transforms.weights import MissingWeights, locate


def needs(name: str) -> None:
    try:
        locate(name)
    except MissingWeights as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def stage() -> Units:
    needs("whisper-tiny")
    made = Units(UnitsOptions())
    made.setup()
    return made


def utterance(samples: np.ndarray, name: str = "a", rate_hz: int = 16000) -> Utterance:
    return Utterance(name, -1, 0, len(samples), samples.astype(np.float32), rate_hz)


def units_of(stage: Units, *samples: np.ndarray, rate_hz: int = 16000) -> Block:
    return stage(Block(0, rate_hz, utterances=[utterance(s, str(i), rate_hz) for i, s in enumerate(samples)]))


def test_units_of_speech(stage: Units, speech: list[Clip]) -> None:
    block = units_of(stage, *(clip.samples for clip in speech))
    card = block.tokenizers["units"]
    assert card == stage.tokenizer()
    assert (card.rate_hz, card.sizes, len(block.utterances)) == (50.0, (500,), len(speech))
    for clip, made in zip(speech, block.utterances, strict=True):
        assert made.units is not None
        assert made.unit_run_lengths is not None
        assert made.unit_run_lengths.sum() == card.n_frames(len(clip.samples))
        assert (np.diff(made.units) != 0).all()
        assert made.units.max() < 500
    used = np.unique(np.concatenate([u.units for u in block.utterances]))
    assert len(used) > 200


@pytest.mark.parametrize("n", [0, 1, 319, 320, 321, 639, 640, 641, 15999, 16001, 480_000])
def test_frame_counts_of_awkward_lengths(stage: Units, speech: list[Clip], n: int) -> None:
    samples = np.resize(speech[0].samples, n)
    made = units_of(stage, samples).utterances[0]
    assert made.unit_run_lengths is not None
    assert made.unit_run_lengths.sum() == n // 320 == stage.tokenizer().n_frames(n)


def test_more_than_the_encoder_reads_is_rejected_with_both_numbers(stage: Units, speech: list[Clip]) -> None:
    block = units_of(stage, np.resize(speech[0].samples, 31 * 16000), speech[1].samples)
    assert [r.reason for r in block.rejections] == [Reason.FAILED]
    assert "31.00 s" in block.rejections[0].detail
    assert "30 s" in block.rejections[0].detail
    assert [u.source for u in block.utterances] == ["1"]


def test_units_do_not_depend_on_the_company(stage: Units, speech: list[Clip]) -> None:
    together = units_of(stage, *(clip.samples for clip in speech[:4])).utterances
    for clip, made in zip(speech, together, strict=False):
        alone = units_of(stage, clip.samples).utterances[0]
        np.testing.assert_array_equal(made.units, alone.units)
        np.testing.assert_array_equal(made.unit_run_lengths, alone.unit_run_lengths)


def test_another_working_rate_is_resampled(stage: Units, ljspeech: list[Clip]) -> None:
    clip = ljspeech[0]
    made = units_of(stage, clip.samples, rate_hz=clip.rate_hz).utterances[0]
    assert made.unit_run_lengths is not None
    assert made.unit_run_lengths.sum() == round(len(clip.samples) * 16000 / clip.rate_hz) // 320


def test_units_tell_phones_apart(stage: Units, ljspeech: list[Clip]) -> None:
    """Giving each unit its most frequent phone names more than half of the frames; one phone for all would name a tenth."""
    units, phones = [], []
    for clip in ljspeech:
        made = units_of(stage, clip.samples, rate_hz=clip.rate_hz).utterances[0]
        assert made.units is not None
        assert made.unit_run_lengths is not None
        frames = kmeans.undup(made.units, made.unit_run_lengths)
        times = (np.arange(len(frames)) + 0.5) / 50
        for phone in clip.line["phones"]:
            inside = (times >= phone["s"]) & (times < phone["e"])
            units.extend(frames[inside])
            phones.extend([phone["p"].rstrip("012")] * int(inside.sum()))
    names, phone_ids = np.unique(phones, return_inverse=True)
    counts = np.zeros((500, len(names)))
    np.add.at(counts, (np.array(units), phone_ids), 1)
    assert counts.max(axis=1).sum() > 0.5 * counts.sum()
    assert counts.sum(axis=0).max() < 0.11 * counts.sum()


def test_centroids_of_another_layer_or_encoder_are_refused(stage: Units, tmp_path: Path) -> None:
    with pytest.raises(quantizer.WrongQuantizer, match=r"fitted on layer 3 of whisper-tiny .* layer 2 of whisper-tiny"):
        Units(UnitsOptions(layer=2)).setup()
    stranger = dataclasses.replace(quantizer.load(locate("antiphon-units").path), encoder_sha256="0" * 64)
    stranger.save(tmp_path / "stranger.safetensors")
    with pytest.raises(quantizer.WrongQuantizer, match="parameters 000000000000"):
        Units(UnitsOptions(quantizer=str(tmp_path / "stranger.safetensors"))).setup()


def test_what_is_no_quantizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "centroids.safetensors"
    path.write_bytes(b"not a tensor in sight")
    with pytest.raises(quantizer.WrongQuantizer, match=r"centroids\.safetensors"):
        quantizer.load(path)


def test_a_layer_the_encoder_lacks_is_refused() -> None:
    needs("whisper-tiny")
    with pytest.raises(ValueError, match="has layers 1 to 4"):
        Units(UnitsOptions(layer=5)).setup()


def test_fitted_units_are_the_same_bytes_and_serve_the_stage(tmp_path: Path, speech: list[Clip]) -> None:
    needs("whisper-tiny")
    spoken = [utterance(clip.samples, str(i)) for i, clip in enumerate(speech[:3])]
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    made = [
        fit_units(spoken, FitUnitsOptions(path=file, data="test", layer=2, k=20, max_frames=400), lambda _: None)
        for file in files
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert made[0].n_utterances == 3
    assert made[0].used == 20
    assert 0 < made[0].distortion < 1
    assert made[0].mean_run_frames > 1
    stage = Units(UnitsOptions(layer=2, quantizer=str(files[0])))
    stage.setup()
    assert stage.tokenizer().sizes == (20,)
    assert stage.tokenizer().name == "first"
    again = quantizer.load(files[1])
    assert (again.layer, again.encoder, again.data) == (2, "whisper-tiny", "test")
    assert stage(Block(0, 16000, utterances=spoken)).utterances[0].units is not None
