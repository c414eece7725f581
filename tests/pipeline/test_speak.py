"""From a corpus of real codes to sound: `run_train` and `speak` together, through Lyra."""
# ruff: noqa: F401, F811  (fixtures of another folder)

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.speak import codec_options, speak
from pipeline.store import Store
from pipeline.train import run_train
from schemas import Block, Tokenizer, Utterance, Word
from schemas.errors import UserError
from tests.conftest import Clip
from tests.training.conftest import sentences, trunk, write_corpus
from tests.transforms.test_codec import needs
from tests.transforms.test_vae_codecs import VAES
from training.options import TrainOptions
from transforms.codec.codec import CodecModel
from transforms.codec.stage import Codec, CodecOptions, card, make_codec
from transforms.taste.stage import Taste, TasteOptions
from transforms.weights import MissingWeights

SMALL = {"seq_len": 128, "batch_tokens": 128, "trunk_layers": 2, "warmup": 1, "eval_every": 0, "threads": 1}


@pytest.fixture(scope="module")
def lyra() -> tuple[CodecModel, Tokenizer]:
    options = CodecOptions(backend="lyra", model="lyra", n_codebooks=8)
    try:
        codec = make_codec(options)
    except MissingWeights as error:
        pytest.skip(str(error))
    return codec, card(options, codec)


@pytest.fixture(scope="module")
def spoken_model(
    lyra: tuple[CodecModel, Tokenizer], speech: list[Clip], trunk: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint folder, trained for three steps on two seconds each of three real clips in Lyra's codes."""
    folder = tmp_path_factory.mktemp("spoken")
    codec, tokenizer = lyra
    block = Block(0, 16000, tokenizers={"codec": tokenizer})
    for number, clip in enumerate(speech[:3]):
        samples = clip.samples[: 2 * clip.rate_hz]
        words = [
            Word(w, 0.3 * i, 0.3 * (i + 1), 0.5, "interpolated") for i, w in enumerate(clip.text.lower().split()[:6])
        ]
        text = " ".join(word.text for word in words)
        u = Utterance(
            f"{number}.flac", 0, 0, len(samples), samples, clip.rate_hz, language="en", text=text, words=words
        )
        u.codec_codes = codec.encode(samples)
        block.utterances.append(u)
        block.samples_in += len(samples)
    Store(str(folder / "corpus")).commit(block, "test", ["parquet"])
    options = TrainOptions.model_validate(SMALL | {"trunk": str(trunk), "steps": 3, "layout": {"name": "codec"}})
    assert run_train(options, [str(folder / "corpus")], str(folder / "model")) == 0
    return folder / "model"


def test_speaks_the_prompt_as_sound(spoken_model: Path, tmp_path: Path) -> None:
    wavs = [tmp_path / f"{name}.wav" for name in "abc"]
    for wav, seed in zip(wavs, (1, 1, 2), strict=True):
        spoken = speak(spoken_model, "ask what you can", wav, max_s=1.5, seed=seed)
    assert spoken.text.split()[:1] == ["ask"]
    samples, rate_hz = soundfile.read(wavs[2])
    assert rate_hz == 16000
    assert len(samples) % 320 == 0
    assert spoken.seconds == len(samples) / rate_hz <= 1.5
    assert np.abs(samples).max() > 0
    same, other = (wav.read_bytes() for wav in wavs[1:])
    assert wavs[0].read_bytes() == same != other


def test_words_that_do_not_fit_are_counted(spoken_model: Path, tmp_path: Path) -> None:
    spoken = speak(spoken_model, "one two three four five six seven eight", tmp_path / "short.wav", max_s=0.1)
    assert spoken.unsaid >= 6
    assert "words of the prompt did not fit" in str(spoken)


def test_other_codecs_are_refused(lyra: tuple[CodecModel, Tokenizer]) -> None:
    assert codec_options(lyra[1]).backend == "lyra"
    with pytest.raises(UserError, match="no codec here has revision 123"):
        codec_options(replace(lyra[1], revision="123"))


def test_a_model_of_word_codes_speaks_through_the_decoder_of_their_tokenizer(
    shared: Path, speech: list[Clip], trunk: Path, tmp_path: Path
) -> None:
    block = Block(0, 16000)
    for number, clip in enumerate(speech[:3]):
        said = clip.text.split()
        words = [Word(w, 0.3 * i, 0.3 * (i + 1), 0.5, "interpolated") for i, w in enumerate(said)]
        n = len(clip.samples)
        u = Utterance(f"{number}.flac", 0, 0, n, clip.samples, clip.rate_hz, language="en", text=clip.text, words=words)
        block.utterances.append(u)
        block.samples_in += n
    stage = Taste(TasteOptions())
    stage.setup()
    coded = stage(block)
    assert len(coded.utterances) == 3
    Store(str(tmp_path / "corpus")).commit(coded, "test", ["parquet"])
    options = TrainOptions.model_validate(SMALL | {"trunk": str(trunk), "steps": 3, "layout": {"name": "taste"}})
    assert run_train(options, [str(tmp_path / "corpus")], str(tmp_path / "model")) == 0
    wavs = [tmp_path / f"{name}.wav" for name in "abc"]
    for wav, seed in zip(wavs, (1, 1, 2), strict=True):
        spoken = speak(tmp_path / "model", "ask what you can", wav, max_s=2, seed=seed)
    assert spoken.text.split()[:4] == ["ask", "what", "you", "can"]
    samples, rate_hz = soundfile.read(wavs[2])
    assert rate_hz == 22050
    assert spoken.seconds == len(samples) / rate_hz > 0.2
    assert np.abs(samples).max() > 0.01
    same, other = (wav.read_bytes() for wav in wavs[1:])
    assert wavs[0].read_bytes() == same != other


@pytest.mark.parametrize("backend", ["mel", "vae"])
def test_a_model_of_latents_speaks_through_the_decoder_of_their_codec(
    backend: str, speech: list[Clip], trunk: Path, tmp_path: Path
) -> None:
    """The embedded codec past its quantiser, and a VITS, which has no codes at all."""
    import torch
    from transformers import VitsConfig, VitsModel

    needs("hifigan-universal")
    model = "antiphon-codec"
    if backend == "vae":
        torch.manual_seed(0)
        VitsModel(VitsConfig(**VAES["Vits"][0])).save_pretrained(tmp_path / "vits")
        model = str(tmp_path / "vits")
    stage = Codec(CodecOptions.model_validate({"backend": backend, "model": model, "latents": True}))
    stage.setup()
    block = Block(0, 16000)
    for number, clip in enumerate(speech[:3]):
        words = [Word(w, 0.3 * i, 0.3 * (i + 1), 0.5, "interpolated") for i, w in enumerate(clip.text.split()[:6])]
        samples = clip.samples[: 2 * clip.rate_hz]
        u = Utterance(f"{number}.flac", 0, 0, len(samples), samples, 16000, language="en", text=clip.text, words=words)
        block.utterances.append(u)
        block.samples_in += len(samples)
    Store(str(tmp_path / "corpus")).commit(stage(block), "test", ["parquet"])
    small = {"trunk": str(trunk), "steps": 3, "layout": {"name": "latents", "group": 2}}
    options = TrainOptions.model_validate(SMALL | small)
    assert run_train(options, [str(tmp_path / "corpus")], str(tmp_path / "model")) == 0
    wavs = [tmp_path / f"{name}.wav" for name in "abc"]
    for wav, seed in zip(wavs, (1, 1, 2), strict=True):
        spoken = speak(tmp_path / "model", "ask what you can", wav, max_s=1, seed=seed, codec=model)
    assert (spoken.text, spoken.unsaid) == ("ask what you can", 0)
    samples, rate_hz = soundfile.read(wavs[2])
    assert rate_hz == stage.tokenizer().sample_rate_hz
    assert len(samples) % stage.tokenizer().hop == 0
    assert 0 < spoken.seconds == len(samples) / rate_hz <= 1.05
    assert np.abs(samples).max() > 0
    same, other = (wav.read_bytes() for wav in wavs[1:])
    assert wavs[0].read_bytes() == same != other
    with pytest.raises(UserError, match="no codec here has revision"):
        speak(tmp_path / "model", "ask", wavs[0], codec="antiphon-units")


def test_word_codes_of_a_tokenizer_that_is_not_here_cannot_be_heard(
    write_corpus: Callable[..., Path], trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TrainOptions.model_validate(SMALL | {"trunk": str(trunk), "steps": 2, "eval_every": 1})
    assert run_train(options, [str(write_corpus())], str(tmp_path / "model")) == 0
    printed = capsys.readouterr().out
    assert "held-out loss by stream, before and after" in printed
    assert "step-000002" in printed
    with pytest.raises(UserError, match="test-taste"):
        speak(tmp_path / "model", "yes", tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


def test_two_stages_speak_all_codebooks(spoken_model: Path, trunk: Path, tmp_path: Path) -> None:
    """VALL-E: one model says the first codebook, another the further ones; the first alone has one codebook to be heard by."""
    for layout in ({"name": "vall-e", "codebooks": 1}, {"name": "valle-nar"}):
        options = TrainOptions.model_validate(SMALL | {"trunk": str(trunk), "steps": 3, "layout": layout})
        assert run_train(options, [str(spoken_model.parent / "corpus")], str(tmp_path / str(layout["name"]))) == 0
    heard = []
    for fill in (None, tmp_path / "valle-nar"):
        spoken = speak(tmp_path / "vall-e", "ask what", tmp_path / "said.wav", max_s=1.0, fill=fill)
        samples, _ = soundfile.read(spoken.wav)
        heard.append(samples)
    assert len(heard[0]) == len(heard[1]) > 0
    assert np.abs(heard[1] - heard[0]).max() > 0
    with pytest.raises(UserError, match="has nothing to fill"):
        speak(spoken_model, "ask", tmp_path / "no.wav", fill=spoken_model)


def test_words_of_white_space_are_not_said(shared) -> None:
    from pipeline.speak_taste import sound_of_words
    from transforms.taste.speech import Speech

    speech = Speech.load("antiphon-taste", "whisper-tiny")
    codes = np.arange(16).reshape(4, 4)
    odd, rate_hz = sound_of_words(speech, ["one", " \n", "tw\to", "three", "late"], codes)
    even, _ = sound_of_words(speech, ["one", "two", "three"], codes[[0, 2, 3]])
    np.testing.assert_array_equal(odd, even)
    assert rate_hz == 22050
    assert len(odd) > 0.2 * rate_hz
    assert len(sound_of_words(speech, [" "], codes)[0]) == 0
