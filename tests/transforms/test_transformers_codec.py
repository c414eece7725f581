"""EnCodec, Mimi, DAC and X-codec through transformers, on small random checkpoints in the real format."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import Tokenizer
from schemas.errors import UserError
from tests.conftest import Clip
from transforms.codec.chunks import encode_in_chunks, share_equal
from transforms.codec.stage import Codec, CodecOptions, decode_codes, make_codec
from transforms.resample import resample

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
    "Xcodec": (
        {
            "target_bandwidths": [0.5, 1, 2],
            "acoustic_model_config": {
                "model_type": "dac",
                "encoder_hidden_size": 4,
                "decoder_hidden_size": 32,
                "hidden_size": 32,
                "downsampling_ratios": [8, 5, 4, 2],
                "upsampling_ratios": [8, 5, 4, 2],
            },
            "semantic_model_config": {
                "model_type": "hubert",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "conv_dim": (8,) * 7,
                "num_conv_pos_embeddings": 16,
                "num_conv_pos_embedding_groups": 2,
            },
        },
        16000,
        320,
        4,
    ),
}


@pytest.fixture(scope="module", params=sorted(CODECS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    import torch
    import transformers

    config = getattr(transformers, f"{request.param}Config")(**CODECS[request.param][0])
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    model = getattr(transformers, f"{request.param}Model")(config)
    for name, buffer in model.named_buffers():
        # Fresh codebooks are all zeros, and every code would be 0.
        if name.endswith(("codebook.embed", "codebook.embed_sum")):
            buffer.normal_(0, 0.1)
        elif name.endswith("cluster_usage"):
            buffer.fill_(1.0)
    if request.param == "Encodec":
        # What its random encoder says hardly varies: entries are taken from that.
        with torch.no_grad():
            said = model.encoder(torch.randn(1, 1, 1024 * 320) * 0.1)[0].T
        for i, layer in enumerate(model.quantizer.layers):
            layer.codebook.embed.copy_(said if i == 0 else said - said.mean(0))
    model.save_pretrained(path)
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
    # Mimi's first codebook is its semantic one, and only its card says so.
    assert card.semantic == (1 if name == "Mimi" else 0)
    assert ("semantic" in card.as_json()) is (name == "Mimi")
    assert Tokenizer.from_json(card.as_json()) == card
    assert card.bits_per_s == pytest.approx(rate_hz / hop * n_codebooks * 10)


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


def test_chunks_with_context_give_the_codes_of_the_whole(made: tuple[str, Path], speech: list[Clip]) -> None:
    """The share of equal codes in the first two codebooks; without context the ends of the chunks differ.

    X-codec's HuBERT hears the whole utterance, through group norm and attention: its tolerance is what it is.
    """
    codec = make_codec(CodecOptions(backend="transformers", model=str(made[1]), n_codebooks=2))
    samples = resample(speech[0].samples, 16000, codec.sample_rate_hz)[: 100 * codec.hop]
    whole = codec.encode(samples)
    assert len(np.unique(whole)) > 5
    assert share_equal(whole, encode_in_chunks(codec, samples, 25, 0)).max() < 0.99
    tolerance = 0.9 if made[0] == "Xcodec" else 0.99
    assert share_equal(whole, encode_in_chunks(codec, samples, 25, 60)).min() >= tolerance
    np.testing.assert_array_equal(encode_in_chunks(codec, samples, 1000, 0), whole)


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
