"""The same Whisper tiny in three formats says the same; CTC and other checkpoints in the real format, small and random."""

from pathlib import Path

import numpy as np
import pytest

from schemas.errors import UserError
from tests.conftest import Clip
from transforms.registry import load
from transforms.transcribe.convert import byte_letters, to_ctranslate2, to_transformers
from transforms.transcribe.stage import BACKENDS, Recogniser, TranscribeOptions, Transcript


def recogniser(backend: str, model: str | Path, **options: object) -> Recogniser:
    made = TranscribeOptions(backend=backend, model=str(model), **options)  # type: ignore[arg-type]
    return load(BACKENDS, backend, "transcribe.backend")(made)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def batch(speech: list[Clip]) -> list[np.ndarray]:
    return [clip.samples for clip in sorted(speech, key=lambda clip: len(clip.samples))[:3]]


@pytest.fixture(scope="module")
def upstream(batch: list[np.ndarray]) -> list[Transcript]:
    return recogniser("whisper", "whisper-tiny").transcribe(batch, [None, "en", None], 0)


@pytest.fixture(scope="module", params=["transformers", "faster-whisper"])
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("whisper") / request.param
    if request.param == "transformers":
        to_transformers("whisper-tiny", folder)
    else:
        pytest.importorskip("faster_whisper")
        to_ctranslate2("whisper-tiny", folder)
    return request.param, folder


@pytest.fixture(scope="module")
def heard(converted: tuple[str, Path]) -> Recogniser:
    return recogniser(*converted)


def test_whisper_says_the_same_in_every_format(
    heard: Recogniser, batch: list[np.ndarray], upstream: list[Transcript]
) -> None:
    """Text, language, log-probability, probability of no speech and compression ratio are openai-whisper's."""
    for ours, theirs in zip(heard.transcribe(batch, [None, "en", None], 0), upstream, strict=True):
        assert ours.text == theirs.text.strip()
        assert (ours.language, ours.temperature) == (theirs.language, 0.0)
        assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=2e-3)
        assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, abs=1e-3)
        assert ours.compression_ratio == pytest.approx(theirs.compression_ratio)


def test_sampling_follows_from_the_seed_alone(converted: tuple[str, Path], batch: list[np.ndarray]) -> None:
    import torch

    # Hot enough to differ, and accepted at the first try.
    hot = recogniser(*converted, temperatures=(0.9,))
    texts = []
    for noise, seed in enumerate([1, 1, 2]):
        torch.manual_seed(noise)
        texts.append([found.text for found in hot.transcribe(batch[:1], ["en"], seed)])
    assert texts[0] == texts[1] != texts[2]


def test_what_fails_is_tried_again_hotter_and_doubtful_silence_is_empty(
    converted: tuple[str, Path], batch: list[np.ndarray]
) -> None:
    tried = recogniser(*converted, temperatures=(0.0, 0.4), logprob_threshold=-0.001, no_speech_threshold=1.0)
    assert tried.transcribe(batch[:1], ["en"], 0)[0].temperature == pytest.approx(0.4)
    silent = recogniser(*converted, no_speech_threshold=0.0, logprob_threshold=0.0)
    assert silent.transcribe(batch[:1], ["en"], 0)[0].text == ""


def test_beams_read_a_batch_as_openai_whisper_does(converted: tuple[str, Path], batch: list[np.ndarray]) -> None:
    upstream, ours = (
        recogniser(*model, beam_size=2).transcribe(batch[:2], ["en"] * 2, 0)
        for model in (("whisper", "whisper-tiny"), converted)
    )
    for theirs, found in zip(upstream, ours, strict=True):
        assert found.text == theirs.text.strip()
        assert found.avg_logprob == pytest.approx(theirs.avg_logprob, abs=2e-3)


def test_more_than_the_window_is_refused(heard: Recogniser) -> None:
    with pytest.raises(ValueError, match=r"31\.00 s"):
        heard.transcribe([np.zeros(31 * 16000, np.float32)], ["en"], 0)


def test_a_folder_in_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model.bin, so no Whisper for faster-whisper; `python -m"):
        recogniser("faster-whisper", tmp_path)
    with pytest.raises(UserError, match=r"no config.json"):
        recogniser("transformers", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="bert model, which transformers knows no speech recognition for"):
        recogniser("transformers", tmp_path)


def test_every_byte_has_its_own_letter() -> None:
    letters = byte_letters()
    assert len(set(letters)) == 256
    assert (letters[ord("A")], letters[ord(" ")], letters[0]) == ("A", "Ġ", "Ā")
