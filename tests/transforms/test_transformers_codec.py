"""EnCodec, Mimi and DAC through transformers, on small random checkpoints in the real format."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import UserError
from transforms.codec.stage import Codec, CodecOptions, decode_codes, make_codec

CODECS: dict[str, tuple[dict[str, Any], int, int, int]] = {
    # model -> (its config, rate in Hz, hop, codebooks)
    "Encodec": ({"num_filters": 4, "hidden_size": 16, "codebook_size": 1024, "codebook_dim": 16}, 24000, 320, 32),
    "Mimi": (
        {
            "num_filters": 4,
            "hidden_size": 32,
            "codebook_size": 1024,
            "codebook_dim": 16,
            "vector_quantization_hidden_dimension": 16,
            "num_quantizers": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 32,
            "upsample_groups": 32,
        },
        24000,
        1920,
        8,
    ),
    "Dac": (
        {
            "encoder_hidden_size": 4,
            "decoder_hidden_size": 32,
            "codebook_size": 1024,
            "codebook_dim": 4,
            "sampling_rate": 16000,
        },
        16000,
        512,
        9,
    ),
}


@pytest.fixture(scope="module", params=sorted(CODECS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    import torch
    import transformers

    config = getattr(transformers, f"{request.param}Config")(**CODECS[request.param][0])
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    getattr(transformers, f"{request.param}Model")(config).save_pretrained(path)
    return request.param, path


def sound(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(0, 0.2, n).astype(np.float32)


def test_the_card_says_what_the_model_is(made: tuple[str, Path]) -> None:
    name, path = made
    _, rate_hz, hop, n_codebooks = CODECS[name]
    stage = Codec(CodecOptions(backend="transformers", model=str(path)))
    stage.setup()
    card = stage.tokenizer()
    assert (card.sample_rate_hz, card.hop, card.sizes, card.frames) == (rate_hz, hop, (1024,) * n_codebooks, "ceil")


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_frames_and_samples(made: tuple[str, Path], more: int) -> None:
    options = CodecOptions(backend="transformers", model=str(made[1]))
    codec = make_codec(options)
    samples = sound(6 * codec.hop + more)
    codes = codec.encode(samples)
    assert codes.shape == (len(codec.sizes), -(-len(samples) // codec.hop))
    assert 0 <= codes.min() <= codes.max() < 1024
    np.testing.assert_array_equal(codes, codec.encode(samples))
    decoded, rate_hz = decode_codes(options, codes)
    assert (len(decoded), rate_hz) == (codes.shape[1] * codec.hop, codec.sample_rate_hz)
    assert np.isfinite(decoded).all()
    assert decoded.std() > 0


def test_the_first_codebooks_are_a_code_of_their_own(made: tuple[str, Path]) -> None:
    full = make_codec(CodecOptions(backend="transformers", model=str(made[1])))
    few = make_codec(CodecOptions(backend="transformers", model=str(made[1]), n_codebooks=2))
    samples = sound(5 * full.hop)
    codes = few.encode(samples)
    np.testing.assert_array_equal(codes, full.encode(samples)[:2])
    assert few.decode(codes).shape == (5 * full.hop,)


def test_nothing_is_no_frames(made: tuple[str, Path]) -> None:
    codec = make_codec(CodecOptions(backend="transformers", model=str(made[1])))
    codes = codec.encode(sound(0))
    assert codes.shape == (len(codec.sizes), 0)
    assert len(codec.decode(codes)) == 0


def test_stereo_and_other_models_are_refused(tmp_path: Path) -> None:
    from transformers import EncodecConfig, HubertConfig

    EncodecConfig(audio_channels=2, chunk_length_s=1.0).save_pretrained(tmp_path / "stereo")
    with pytest.raises(UserError, match="stereo or chunked"):
        make_codec(CodecOptions(backend="transformers", model=str(tmp_path / "stereo")))
    HubertConfig().save_pretrained(tmp_path / "hubert")
    with pytest.raises(UserError, match="a hubert model"):
        make_codec(CodecOptions(backend="transformers", model=str(tmp_path / "hubert")))
