"""SNAC on a small random checkpoint in its own format: three rates in one frame, and back."""

import json
from pathlib import Path

import numpy as np
import pytest

from schemas import Block, Tokenizer, Utterance
from schemas.errors import UserError
from tests.conftest import Clip
from transforms.codec.chunks import encode_in_chunks, share_equal
from transforms.codec.stage import Codec, CodecOptions, decode_codes, make_codec

snac = pytest.importorskip("snac", reason="needs the snac package (pip install 'antiphon[snac]')")

# The 24 kHz model's rates and strides, in small; with attention as the larger models have it, and without.
CONFIG = {
    "sampling_rate": 24000,
    "encoder_dim": 4,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 64,
    "decoder_rates": [8, 8, 4, 2],
    "codebook_size": 64,
    "codebook_dim": 4,
    "vq_strides": [4, 2, 1],
}


@pytest.fixture(scope="module", params=[None, 32], ids=["conv", "attention"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    config = CONFIG | {"attn_window_size": request.param}
    path = tmp_path_factory.mktemp("snac")
    (path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    torch.save(snac.SNAC(**config).state_dict(), path / "pytorch_model.bin")
    return path


def sound(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(0, 0.2, n).astype(np.float32)


def test_levels_of_three_rates_are_rows_of_one_frame(folder: Path) -> None:
    import torch

    codec = make_codec(CodecOptions(backend="snac", model=str(folder)))
    samples = sound(9 * 2048)
    codes = codec.encode(samples)
    with torch.inference_mode():
        levels = [c[0].numpy() for c in codec._network.encode(torch.from_numpy(samples)[None, None])]
    assert codes.shape == (7, 9)
    for t in range(9):
        np.testing.assert_array_equal(codes[:1, t], levels[0][t : t + 1])
        np.testing.assert_array_equal(codes[1:3, t], levels[1][2 * t : 2 * t + 2])
        np.testing.assert_array_equal(codes[3:, t], levels[2][4 * t : 4 * t + 4])


@pytest.mark.parametrize("n", [0, 1, 2047, 2048, 2049, 40000])
def test_frames_sound_and_the_card(folder: Path, n: int) -> None:
    options = CodecOptions(backend="snac", model=str(folder))
    stage = Codec(options)
    stage.setup()
    card = stage.tokenizer()
    assert (card.hop, card.sizes, card.levels, card.frames) == (2048, (64,) * 7, (1, 2, 4), "ceil")
    assert card.bits_per_s == pytest.approx(24000 / 2048 * 7 * 6)
    assert Tokenizer.from_json(json.loads(json.dumps(card.as_json()))) == card
    made = stage(Block(0, 24000, utterances=[Utterance("a", -1, 0, n, sound(n), 24000)])).utterances[0]
    assert made.codec_codes is not None
    assert made.codec_codes.shape == (7, card.n_frames(n)) == (7, -(-n // 2048))
    decoded, rate_hz = decode_codes(options, made.codec_codes)
    assert (len(decoded), rate_hz) == (2048 * made.codec_codes.shape[1], 24000)
    np.testing.assert_array_equal(decoded, decode_codes(options, made.codec_codes)[0])


def test_chunks_with_context_give_the_codes_of_the_whole(folder: Path, speech: list[Clip]) -> None:
    codec = make_codec(CodecOptions(backend="snac", model=str(folder)))
    whole = codec.encode(speech[0].samples)
    chunked = encode_in_chunks(codec, speech[0].samples, 16, 16)
    # Attention in windows of 8 frames: chunks and contexts of whole windows keep them where they are.
    assert share_equal(whole, chunked).min() > 0.99


def test_what_is_no_snac_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes all 7 rows"):
        make_codec(CodecOptions(backend="snac", model=str(folder), n_codebooks=3))
    with pytest.raises(UserError, match="not a SNAC folder"):
        make_codec(CodecOptions(backend="snac", model=str(tmp_path)))
