"""Continuous latents through transformers, on small random checkpoints in the models' real formats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas import Block, Utterance
from schemas.errors import UserError
from tests.conftest import Clip
from tests.transforms.test_transformers_codec import made as made_rvq  # noqa: F401
from tests.transforms.test_transformers_codec import sound
from transforms.codec.codec import ContinuousCodec
from transforms.codec.latents import latents_in_chunks
from transforms.codec.stage import Codec, CodecOptions, decode_latents, make_codec
from transforms.codec.vae import linear_spectrogram
from transforms.resample import resample

VAES: dict[str, tuple[dict[str, Any], int, int, int]] = {
    # class -> (its config, rate in Hz, hop, d)
    "VibeVoiceAcousticTokenizer": (
        {
            "hidden_size": 8,
            "num_filters": 4,
            "downsampling_ratios": [2, 4, 5, 8],
            "depths": [1, 1, 1, 1, 2],
            "layer_scale_init_value": 0.1,
        },
        24000,
        320,
        8,
    ),
    "PocketTTSAudioTokenizer": (
        {
            "hidden_size": 32,
            "num_filters": 4,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "upsample_groups": 32,
            "latent_dim": 8,
            "sliding_window": 20,
        },
        24000,
        1920,
        8,
    ),
    "Vits": (
        {
            "hidden_size": 16,
            "ffn_dim": 16,
            "flow_size": 6,
            "num_hidden_layers": 1,
            "spectrogram_bins": 513,
            "posterior_encoder_num_wavenet_layers": 3,
            "prior_encoder_num_wavenet_layers": 1,
            "upsample_initial_channel": 16,
        },
        16000,
        256,
        6,
    ),
}


@pytest.fixture(scope="module", params=VAES)
def vae(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    import transformers

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    config = getattr(transformers, f"{request.param}Config")(**VAES[request.param][0])
    model = getattr(transformers, f"{request.param}Model")(config)
    if request.param == "VibeVoiceAcousticTokenizer":
        # Fresh weights are so small that nothing gets through 5 layers; and so is the residual branch.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
    model.save_pretrained(path)
    return request.param, path


@pytest.fixture(scope="module")
def codec(vae: tuple[str, Path]) -> ContinuousCodec:
    return make_codec(CodecOptions(backend="vae", model=str(vae[1]), latents=True))  # type: ignore[return-value]


def coded(path: Path, *samples: np.ndarray, **options: Any) -> Block:
    stage = Codec(CodecOptions(backend="vae", model=str(path), latents=True, **options))
    stage.setup()
    return stage(
        Block(0, 16000, utterances=[Utterance(str(i), -1, 0, len(s), s, 16000) for i, s in enumerate(samples)])
    )


def test_the_card_and_the_rows(vae: tuple[str, Path], speech: list[Clip]) -> None:
    name, path = vae
    _, rate_hz, hop, dim = VAES[name]
    block = coded(path, *(clip.samples for clip in speech[:2]))
    assert not block.rejections
    card = block.tokenizers["codec"]
    assert card.latents
    assert (card.sample_rate_hz, card.hop, card.sizes, card.latents.dim) == (rate_hz, hop, (), dim)
    assert card.latents.noise == (0.625 if name.startswith("Vibe") else 0)
    assert card.latents.variance is (name == "Vits")
    assert type(card).from_json(card.as_json()) == card
    for clip, u in zip(speech, block.utterances, strict=False):
        assert u.codec_codes is None
        assert u.codec_latents is not None
        assert u.codec_latents.shape == (card.n_frames(round(len(clip.samples) * rate_hz / 16000)), dim)
        assert u.codec_latents.dtype == np.float16
        assert u.codec_latents.std() > 0.01
        assert (u.codec_latent_variance is not None) is (name == "Vits")
        if name == "Vits":
            assert (u.codec_latent_variance > 0).all()  # type: ignore[operator]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_frames_and_samples(vae: tuple[str, Path], codec: ContinuousCodec, more: int) -> None:
    samples = sound(6 * codec.hop + more)
    found = codec.encode_latents(samples)
    assert found.codes is None
    assert found.latents.shape == (-(-len(samples) // codec.hop), codec.latents.dim)
    np.testing.assert_array_equal(found.latents, codec.encode_latents(samples).latents)
    options = CodecOptions(backend="vae", model=str(vae[1]), latents=True)
    heard, rate_hz = decode_latents(options, found.latents)
    assert (len(heard), rate_hz) == (len(found.latents) * codec.hop, codec.sample_rate_hz)
    assert np.isfinite(heard).all()
    assert np.abs(heard - decode_latents(options, found.latents + 1)[0]).max() > 0
    assert (
        len(codec.encode_latents(sound(0)).latents) == len(codec.decode_latents(np.zeros((0, codec.latents.dim)))) == 0
    )


def test_chunks_with_context_give_the_latents_of_the_whole(codec: ContinuousCodec, speech: list[Clip]) -> None:
    """Within a thousandth of their deviation with 60 frames of context; without context, not."""
    samples = resample(speech[0].samples, 16000, codec.sample_rate_hz)[: 100 * codec.hop]
    whole = codec.encode_latents(samples)
    for context, close in ((60, True), (0, False)):
        chunked = latents_in_chunks(codec, samples, 25, context)
        apart = float(np.abs(chunked.latents - whole.latents).max() / whole.latents.std())
        assert (apart < 1e-3) is close
        if whole.variance is not None and close:
            np.testing.assert_allclose(chunked.variance, whole.variance, rtol=1e-3)  # type: ignore[arg-type]


def test_vits_gives_what_its_posterior_encoder_says(vae: tuple[str, Path], codec: ContinuousCodec) -> None:
    """Mean and variance: draws of the model itself, which adds the noise, have them."""
    if vae[0] != "Vits":
        pytest.skip("the others give no variance")
    found = codec.encode_latents(sound(2 * 256))
    network = codec._network  # type: ignore[attr-defined]
    spectrogram = linear_spectrogram(torch.from_numpy(sound(2 * 256)), 513, 256)[None]
    with torch.inference_mode():
        torch.manual_seed(0)
        draws = torch.stack([network.posterior_encoder(spectrogram, torch.ones(1, 1, 2))[0][0].T for _ in range(2000)])
    np.testing.assert_allclose(draws.mean(0), found.latents, atol=0.15)
    np.testing.assert_allclose(draws.var(0), found.variance, rtol=0.15)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_frames", [1, 2, 9])
def test_a_linear_spectrogram_has_a_frame_a_hop_and_a_tone_in_its_bin(n_frames: int) -> None:
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(n_frames * 256) / 16000)
    found = linear_spectrogram(tone, 513, 256)
    assert found.shape == (513, n_frames)
    assert (found.argmax(0) - 1000 / (16000 / 1024)).abs().max() <= 1


def test_vibevoice_hears_all_equally_loud(vae: tuple[str, Path], speech: list[Clip]) -> None:
    """As its feature extractor has it, on the utterance as a whole: so in chunks too."""
    from transformers import VibeVoiceAcousticTokenizerFeatureExtractor

    if not vae[0].startswith("Vibe"):
        pytest.skip("the others hear what there is")
    samples = speech[0].samples
    loud, soft, chunked = (
        coded(vae[1], s, **o).utterances[0].codec_latents
        for s, o in ((samples, {}), (samples * 0.05, {}), (samples * 0.3, {"chunk_s": 1.0, "context_s": 1.0}))
    )
    assert loud is not None
    np.testing.assert_allclose(soft, loud, atol=0.01 * loud.std())  # type: ignore[arg-type]
    np.testing.assert_allclose(chunked, loud, atol=0.01 * loud.std())  # type: ignore[arg-type]
    codec: Any = make_codec(CodecOptions(backend="vae", model=str(vae[1]), latents=True))
    theirs = VibeVoiceAcousticTokenizerFeatureExtractor()(samples, sampling_rate=24000)["input_values"][0, 0]
    np.testing.assert_allclose(codec.prepare(samples), theirs[: len(samples)], atol=1e-6)


def test_what_it_cannot_do_is_refused(vae: tuple[str, Path], tmp_path: Path) -> None:
    from transformers import PocketTTSAudioTokenizerConfig, PocketTTSAudioTokenizerModel, VitsConfig

    path = str(vae[1])
    with pytest.raises(UserError, match=r"has no codes, only latents: set codec\.latents to true"):
        Codec(CodecOptions(backend="vae", model=path)).setup()
    with pytest.raises(UserError, match="n_codebooks is 2"):
        make_codec(CodecOptions(backend="vae", model=path, n_codebooks=2))
    VitsConfig(num_speakers=4).save_pretrained(tmp_path / "many")
    with pytest.raises(UserError, match="a VITS of 4 speakers"):
        make_codec(CodecOptions(backend="vae", model=str(tmp_path / "many")))
    half = PocketTTSAudioTokenizerConfig(**VAES["PocketTTSAudioTokenizer"][0], encoder_config=None)
    PocketTTSAudioTokenizerModel(half).save_pretrained(tmp_path / "half")
    with pytest.raises(UserError, match="an encoder or a decoder alone"):
        make_codec(CodecOptions(backend="vae", model=str(tmp_path / "half")))


# Codecs with codebooks: what they quantise.


def rvq(made: tuple[str, Path]) -> Any:
    if made[0] == "Xcodec":
        pytest.skip("X-codec gives no latents here")
    return make_codec(CodecOptions(backend="transformers", model=str(made[1]), latents=True))


def test_latents_come_with_the_very_codes(made_rvq: tuple[str, Path]) -> None:  # noqa: F811
    codec = rvq(made_rvq)
    samples = sound(6 * codec.hop + 1)
    found = codec.encode_latents(samples)
    np.testing.assert_array_equal(found.codes, codec.encode(samples))
    assert found.latents.shape == (7, {"Encodec": 16, "Mimi": 32, "Dac": 64}[made_rvq[0]])
    assert codec.latents.dim == found.latents.shape[1]
    assert codec.decode_latents(found.latents).shape == (7 * codec.hop,)
    assert codec.encode_latents(sound(0)).latents.shape == (0, codec.latents.dim)


def test_sums_of_codes_are_latents_that_sound_as_the_codes_do(made_rvq: tuple[str, Path]) -> None:  # noqa: F811
    """So the way past the codebooks is the decoder's own, and the scale is of the latents' own space."""
    from transforms.codec import quantised

    codec = rvq(made_rvq)
    codes = codec.encode(sound(9 * codec.hop))
    with torch.inference_mode():
        summed = sum(
            level[row] for level, row in zip(quantised.levels(codec._network), torch.from_numpy(codes), strict=True)
        )
    np.testing.assert_allclose(codec.decode_latents(summed.numpy()), codec.decode(codes), atol=1e-4)


def test_their_chunks_give_the_latents_of_the_whole(made_rvq: tuple[str, Path], speech: list[Clip]) -> None:  # noqa: F811
    """Within a hundredth of their deviation, with 60 frames of context."""
    codec = rvq(made_rvq)
    samples = resample(speech[0].samples, 16000, codec.sample_rate_hz)[: 100 * codec.hop]
    whole, chunked = codec.encode_latents(samples).latents, latents_in_chunks(codec, samples, 25, 60).latents
    assert np.abs(whole - chunked).max() < 0.01 * whole.std()
    assert np.abs(whole - latents_in_chunks(codec, samples, 25, 0).latents).max() > 0.01 * whole.std()


def test_a_codec_without_latents_is_refused(made_rvq: tuple[str, Path]) -> None:  # noqa: F811
    if made_rvq[0] != "Xcodec":
        pytest.skip("the others have them")
    with pytest.raises(UserError, match=r"codec\.latents: nothing here gives continuous latents"):
        Codec(CodecOptions(backend="transformers", model=str(made_rvq[1]), latents=True)).setup()
