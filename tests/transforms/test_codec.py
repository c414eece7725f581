"""The codec stage and its backends, on real speech and on small random checkpoints in the real format."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import Block, Utterance
from schemas.errors import UserError
from tests.conftest import Clip
from transforms.codec.chunks import share_equal
from transforms.codec.codec import CodecModel
from transforms.codec.stage import Codec, CodecOptions, decode_codes, make_codec
from transforms.resample import resample
from transforms.weights import MissingWeights, locate


def needs(*names: str) -> None:
    try:
        for name in names:
            locate(name)
    except MissingWeights as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["mel", "lyra"])
def options(request: pytest.FixtureRequest) -> CodecOptions:
    model = {"mel": "antiphon-codec", "lyra": "lyra"}[request.param]
    needs(model)
    return CodecOptions(backend=request.param, model=model)


@pytest.fixture(scope="module")
def codec(options: CodecOptions) -> CodecModel:
    return make_codec(options)


@pytest.fixture(scope="module")
def stage(options: CodecOptions) -> Codec:
    made = Codec(options)
    made.setup()
    return made


def coded(stage: Codec, *samples: np.ndarray) -> Block:
    spoken = [Utterance(str(i), -1, 0, len(s), s, 16000) for i, s in enumerate(samples)]
    return stage(Block(0, 16000, utterances=spoken))


def test_codes_of_speech(stage: Codec, speech: list[Clip]) -> None:
    block = coded(stage, *(clip.samples for clip in speech[:3]))
    card = block.tokenizers["codec"]
    assert card == stage.tokenizer()
    for clip, made in zip(speech, block.utterances, strict=False):
        assert made.codec_codes is not None
        n_samples = round(len(clip.samples) * card.sample_rate_hz / 16000)
        assert made.codec_codes.shape == (len(card.sizes), card.n_frames(n_samples))
        assert made.codec_codes.dtype == np.uint16
        assert (made.codec_codes.max(axis=1) < np.array(card.sizes)).all()


def test_codes_do_not_depend_on_the_company(stage: Codec, speech: list[Clip]) -> None:
    """A codec that carries state over would give the second of two equal clips other codes than the first."""
    shortest = sorted((clip.samples for clip in speech), key=len)[:2]
    together = coded(stage, *shortest, shortest[0]).utterances
    np.testing.assert_array_equal(together[0].codec_codes, together[2].codec_codes)
    np.testing.assert_array_equal(together[1].codec_codes, coded(stage, shortest[1]).utterances[0].codec_codes)


@pytest.mark.parametrize("frames", [0, 1, 2, 7])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_frame_counts_of_awkward_lengths(codec: CodecModel, speech: list[Clip], frames: int, more: int) -> None:
    n = max(0, frames * codec.hop + more)
    if codec.sample_rate_hz == 22050:
        needs("hifigan-universal")
    samples = resample(speech[0].samples, 16000, codec.sample_rate_hz)[:n]
    codes = codec.encode(samples)
    assert codes.shape == (len(codec.sizes), -(-n // codec.hop))
    assert codec.decode(codes).shape == (codes.shape[1] * codec.hop,)


def test_the_first_codebooks_are_a_code_of_their_own(
    options: CodecOptions, codec: CodecModel, speech: list[Clip]
) -> None:
    samples = resample(speech[0].samples, 16000, codec.sample_rate_hz)[: 20 * codec.hop]
    fewer = make_codec(options.model_copy(update={"n_codebooks": 3}))
    assert fewer.sizes == codec.sizes[:3]
    np.testing.assert_array_equal(fewer.encode(samples), codec.encode(samples)[:3])


@pytest.mark.parametrize("count", [0, 47])
def test_codebooks_that_are_not_there_are_refused(options: CodecOptions, count: int) -> None:
    with pytest.raises(UserError, match=f"codec.n_codebooks is {count}"):
        make_codec(options.model_copy(update={"n_codebooks": count}))


@pytest.mark.parametrize(
    ("backend", "model", "floor"), [("mel", "antiphon-codec", 0.75), ("lyra", "lyra", 0.85)], ids=["mel", "lyra"]
)
def test_speech_comes_back_from_its_codes(backend: Any, model: str, floor: float, speech: list[Clip]) -> None:
    from pystoi import stoi

    needs(model, *(["hifigan-universal"] if backend == "mel" else []))
    clip = min(speech, key=lambda c: len(c.samples))
    options = CodecOptions(backend=backend, model=model)
    codec = make_codec(options)
    codes = codec.encode(resample(clip.samples, 16000, codec.sample_rate_hz))
    made, rate_hz = decode_codes(options, codes)
    assert rate_hz == codec.sample_rate_hz
    assert np.abs(made).max() <= 1
    heard = resample(made, rate_hz, 16000)[: len(clip.samples)]
    assert stoi(clip.samples[: len(heard)], heard, 16000) > floor
    shuffled = decode_codes(options, np.random.default_rng(0).permutation(codes, axis=1))[0]
    assert stoi(clip.samples[: len(heard)], resample(shuffled, rate_hz, 16000)[: len(heard)], 16000) < 0.4


def test_codes_that_the_codec_does_not_have_are_refused(options: CodecOptions, codec: CodecModel) -> None:
    with pytest.raises(ValueError, match=r"codes of shape \(1, 5\)"):
        decode_codes(options, np.zeros((1, 5), dtype=np.int64))
    codes = np.zeros((len(codec.sizes), 5), dtype=np.int64)
    codes[1, 3] = codec.sizes[1]
    with pytest.raises(ValueError, match=r"codes outside codebooks \[1\]"):
        decode_codes(options, codes)


def test_a_file_that_is_no_codec_is_refused() -> None:
    with pytest.raises(UserError, match="not a mel codec"):
        make_codec(CodecOptions(model=str(locate("antiphon-units").path)))


def test_fitted_codecs_repeat_themselves_and_serve(tmp_path: Path, speech: list[Clip]) -> None:
    from transforms.codec.fit import FitCodecOptions, fit_codec

    spoken = [Utterance(str(i), -1, 0, len(c.samples), c.samples, 16000) for i, c in enumerate(speech[:3])]
    shape: dict[str, Any] = {"data": "test", "size": 16, "levels": 2, "steps": 40, "steps_plain": 20, "batch": 4}
    shape |= {"heard_share": 0.2, "vocoded_crops": 21, "vocoded_steps": 3, "gain_db": 0, "bfloat16": True}
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    made = [fit_codec(spoken, FitCodecOptions(path=file, **shape), lambda _: None) for file in files]
    assert files[0].read_bytes() == files[1].read_bytes()
    # Always giving each band's mean comes to 2.26 on these clips.
    assert made[0].error < 1.6
    assert min(made[0].used) > 8
    codec = make_codec(CodecOptions(model=str(files[0])))
    assert codec.sizes == (16, 16)
    assert codec.encode(resample(speech[0].samples, 16000, codec.sample_rate_hz)).max() < 16


def test_a_fit_goes_on_from_another(tmp_path: Path, speech: list[Clip]) -> None:
    from transforms.codec.fit import FitCodecOptions, fit_codec
    from transforms.codec.mel import read_header

    spoken = [Utterance(str(i), -1, 0, len(c.samples), c.samples, 16000) for i, c in enumerate(speech[:3])]
    shape: dict[str, Any] = {"data": "test", "size": 16, "levels": 2, "batch": 4, "heard_weight": 0, "distil_weight": 0}
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    short = fit_codec(spoken, FitCodecOptions(path=first, steps=40, steps_plain=20, **shape), lambda _: None)
    again = fit_codec(spoken, FitCodecOptions(path=second, start=first, steps=40, **shape), lambda _: None)
    assert again.error < short.error
    header = read_header(second)
    assert header["start"] == read_header(first)
    # No path of the machine it was fitted on.
    assert str(tmp_path) not in str(header)
    with pytest.raises(ValueError, match=r"has {'size': 16}, and the options {'size': 8}"):
        fit_codec(spoken, FitCodecOptions(path=second, start=first, steps=1, **shape | {"size": 8}), lambda _: None)


def test_chunks_of_speech_give_the_codes_of_the_whole(options: CodecOptions, speech: list[Clip]) -> None:
    """Two seconds of context: the mel codec hears half a second around each frame; Lyra carries state, and comes close."""
    whole, chunked = (Codec(options.model_copy(update={"chunk_s": chunk_s})) for chunk_s in (None, 3.0))
    for stage in (whole, chunked):
        stage.setup()
    assert whole.tokenizer().revision != chunked.tokenizer().revision
    codes = [coded(stage, *(clip.samples for clip in speech)).utterances for stage in (whole, chunked)]
    shares = [share_equal(a.codec_codes, b.codec_codes) for a, b in zip(*codes, strict=True)]  # type: ignore[arg-type]
    assert np.mean(shares) >= (0.999 if options.backend == "mel" else 0.95)


def test_the_example_tells_how_the_embedded_codec_was_fitted() -> None:
    from examples.embedded import EMBEDDED, FILES, RECIPES, VOICES
    from transforms.codec.fit import FitCodecOptions
    from transforms.codec.mel import read_header

    path = EMBEDDED / FILES["codec"]
    card = read_header(path)
    assert card["data"] == VOICES
    told = FitCodecOptions(path=path, data=VOICES, **RECIPES["codec"]).model_dump(mode="json")
    options = card["options"]
    assert isinstance(options, dict)
    assert {name: told[name] for name in options} == options
