"""Continuous latents of the embedded codec, on real speech: what is stored, its scale, chunks, and the sound of them."""

import numpy as np
import pytest
import torch

from schemas import Block, Tokenizer, Utterance
from schemas.errors import UserError
from tests.conftest import Clip
from tests.transforms.test_codec import needs
from transforms.codec.codec import Encoded
from transforms.codec.latents import rvq_latents, stored
from transforms.codec.network import MelCodecNetwork
from transforms.codec.stage import Codec, CodecOptions, decode_codes, decode_latents, make_codec
from transforms.resample import resample

OPTIONS = CodecOptions(latents=True)


def coded(options: CodecOptions, *samples: np.ndarray) -> Block:
    stage = Codec(options)
    stage.setup()
    return stage(
        Block(0, 16000, utterances=[Utterance(str(i), -1, 0, len(s), s, 16000) for i, s in enumerate(samples)])
    )


def normal(card: Tokenizer, latents: np.ndarray) -> np.ndarray:
    assert card.latents
    return (latents.astype(np.float64) - card.latents.mean) / card.latents.deviation


def test_latents_are_stored_beside_the_very_same_codes(speech: list[Clip]) -> None:
    with_them, without = (coded(o, *(c.samples for c in speech[:3])) for o in (OPTIONS, CodecOptions()))
    card = with_them.tokenizers["codec"]
    assert card.latents
    assert without.tokenizers["codec"].latents is None
    assert card.revision == without.tokenizers["codec"].revision
    for a, b in zip(with_them.utterances, without.utterances, strict=True):
        np.testing.assert_array_equal(a.codec_codes, b.codec_codes)
        assert b.codec_latents is None
        assert a.codec_latents is not None
        assert a.codec_latents.dtype == np.float16
        assert a.codec_latents.shape == (a.codec_codes.shape[1], card.latents.dim)  # type: ignore[union-attr]
        assert a.codec_latent_variance is None
    # The card is read back as it was, and says no word of latents where there are none.
    assert Tokenizer.from_json(card.as_json()) == card
    assert "latents" not in without.tokenizers["codec"].as_json()
    assert card.latent_bytes_per_s == pytest.approx(22050 / 1024 * 128 * 2)


def test_latents_do_not_depend_on_the_company(speech: list[Clip]) -> None:
    one, two = (clip.samples for clip in speech[:2])
    together = coded(OPTIONS, one, two, one).utterances
    np.testing.assert_array_equal(together[0].codec_latents, together[2].codec_latents)
    np.testing.assert_array_equal(together[1].codec_latents, coded(OPTIONS, two).utterances[0].codec_latents)


def test_the_scale_of_the_card_is_that_of_speech(speech: list[Clip]) -> None:
    """From the codebooks alone, and yet deviations are within a factor of two of what the clips say; means, which are the
    voice's and the microphone's too, within a few of them."""
    block = coded(OPTIONS, *(clip.samples for clip in speech))
    said = np.concatenate([normal(block.tokenizers["codec"], u.codec_latents) for u in block.utterances])  # type: ignore[arg-type]
    assert 0.5 < said.std(0).min() <= said.std(0).max() < 2
    assert np.abs(said.mean(0)).max() < 3
    assert 0.8 < np.sqrt(np.square(said).mean()) < 1.6


def test_chunks_of_speech_give_the_latents_of_the_whole(speech: list[Clip]) -> None:
    """With two seconds of context: within 0.01 deviations, and half of a float16's last place at that."""
    whole, chunked = (
        coded(o, *(c.samples for c in speech)) for o in (OPTIONS, OPTIONS.model_copy(update={"chunk_s": 3.0}))
    )
    card = whole.tokenizers["codec"]
    assert card.revision != chunked.tokenizers["codec"].revision
    for a, b in zip(whole.utterances, chunked.utterances, strict=True):
        assert a.codec_latents is not None
        assert b.codec_latents is not None
        assert np.abs(normal(card, a.codec_latents) - normal(card, b.codec_latents)).max() < 0.01
    bare = coded(OPTIONS.model_copy(update={"chunk_s": 3.0, "context_s": 0.0}), *(c.samples for c in speech))
    apart = [
        np.abs(normal(card, a.codec_latents) - normal(card, b.codec_latents)).max()  # type: ignore[arg-type]
        for a, b in zip(whole.utterances, bare.utterances, strict=True)
    ]
    assert max(apart) > 0.1


def test_speech_comes_back_from_its_latents_better_than_from_its_codes(speech: list[Clip]) -> None:
    from pystoi import stoi

    needs("hifigan-universal")
    clip = min(speech, key=lambda c: len(c.samples))
    u = coded(OPTIONS, clip.samples).utterances[0]
    assert u.codec_latents is not None
    assert u.codec_codes is not None
    heard = [decode_latents(OPTIONS, u.codec_latents)[0], decode_codes(OPTIONS, u.codec_codes)[0]]
    assert len(heard[0]) == len(heard[1]) == len(u.codec_latents) * 1024
    assert np.abs(heard[0]).max() <= 1
    scores = [stoi(clip.samples, resample(made, 22050, 16000)[: len(clip.samples)], 16000) for made in heard]
    assert scores[0] > scores[1] > 0.75


def test_codes_as_latents_sound_as_the_codes_do(speech: list[Clip]) -> None:
    """The decoder of latents is the codec's own: given the vectors that codes stand for it gives what the codes give."""
    needs("hifigan-universal")
    codec = make_codec(OPTIONS)
    codes = codec.encode(resample(speech[0].samples, 16000, 22050)[: 20 * 1024])
    said = codec._network.quantiser.latent(torch.from_numpy(codes.T)[None])  # type: ignore[attr-defined]
    latents = said.detach().reshape(codes.shape[1], -1).numpy()
    np.testing.assert_allclose(decode_latents(OPTIONS, latents)[0], decode_codes(OPTIONS, codes)[0], atol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025])
def test_frame_counts_of_awkward_lengths(n: int, speech: list[Clip]) -> None:
    codec = make_codec(OPTIONS)
    encoded = codec.encode_latents(resample(speech[0].samples, 16000, 22050)[:n])  # type: ignore[attr-defined]
    assert encoded.latents.shape == (-(-n // 1024), 128)
    assert encoded.codes.shape == (8, -(-n // 1024))


def test_a_branch_gives_both_its_parts() -> None:
    torch.manual_seed(0)
    network = MelCodecNetwork(channels=16, levels=3, size=32, code_dim=4, content_blocks=1).eval()
    for quantiser in (network.quantiser, network.content_quantiser):
        quantiser.codebooks.normal_()
    log_mel = torch.randn(80, 20)
    codes, latents = network.encode_both(log_mel)
    torch.testing.assert_close(codes, network.encode(log_mel))
    assert latents.shape == (10, 8)
    with torch.no_grad():
        whole, _ = network.unquantised(network.latent(log_mel[None]))
        torch.testing.assert_close(network.decode_latents(latents), network.restore(whole)[0])
    # A sum of one code of each level is a latent, and sounds as these codes.
    parts = torch.stack([level[row] for level, row in zip(network.levels, codes, strict=True)]).sum(0)
    torch.testing.assert_close(network.decode_latents(parts), network.decode(codes))
    assert rvq_latents(network.levels).dim == 8


def test_what_the_card_does_not_say_is_refused() -> None:
    card = Tokenizer("codec", "c", "r", 16000, 320, (4,), "ceil", latents=rvq_latents([torch.randn(4, 3)]))
    fine = Encoded(np.zeros((1, 2)), np.full((2, 3), 0.5, dtype=np.float32))
    assert stored(card, fine, 640).latents.dtype == np.float16
    for wrong, message in (
        (fine._replace(latents=np.zeros((3, 3))), r"latents \(3, 3\) of 640 samples, and \(2, 3\)"),
        (fine._replace(latents=np.zeros((2, 4))), r"\(2, 4\)"),
        (fine._replace(latents=np.full((2, 3), 1e6)), "1e.06, which float16 does not hold"),
        (fine._replace(latents=np.full((2, 3), np.nan)), "float16 does not hold"),
        (fine._replace(variance=np.ones((2, 3))), "not in the card"),
    ):
        with pytest.raises(ValueError, match=message):
            stored(card, wrong, 640)
    needs("lyra")
    with pytest.raises(UserError, match=r"codec\.latents: nothing here gives continuous latents of lyra"):
        coded(CodecOptions(backend="lyra", model="lyra", latents=True))
