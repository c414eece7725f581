"""SpeechTokenizer on a small random checkpoint in its own format: content first, and any number of first books."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from schemas import Block, Tokenizer, Utterance
from schemas.errors import UserError
from tests.conftest import Clip
from transforms.codec.chunks import encode_in_chunks, share_equal
from transforms.codec.speechtokenizer import INSTALL
from transforms.codec.stage import Codec, CodecOptions, decode_codes, make_codec
from transforms.past_init import submodule
from transforms.resample import resample

try:
    network = submodule("speechtokenizer", "model").SpeechTokenizer
except ImportError as error:
    pytest.skip(f"needs the speechtokenizer package ({INSTALL}): {error}", allow_module_level=True)

# The published config (fnlp/SpeechTokenizer, speechtokenizer_hubert_avg) with fewer channels and smaller books.
CONFIG = {
    "n_filters": 4,
    "strides": [8, 5, 4, 2],
    "dimension": 32,
    "semantic_dimension": 24,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 2,
    "activation": "ELU",
    "sample_rate": 16000,
    "codebook_size": 64,
    "n_q": 8,
}


def options(folder: Path, n: int | None = None) -> CodecOptions:
    return CodecOptions(backend="speechtokenizer", model=str(folder), n_codebooks=n)


def sixteen(clip: Clip, seconds: float) -> np.ndarray:
    return resample(clip.samples, clip.rate_hz, 16000)[: int(16000 * seconds)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, speech: list[Clip]) -> Path:
    """Its books hold frames that the random encoder makes of real speech, and what each level leaves of them."""
    import torch

    path = tmp_path_factory.mktemp("speechtokenizer")
    (path / "config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    made = network(CONFIG).eval()
    samples = np.concatenate([sixteen(clip, 4.0) for clip in speech[:3]])
    with torch.no_grad():
        for name, parameter in made.encoder.named_parameters():
            if name.endswith("weight_g"):
                parameter.mul_(2)  # as drawn, it makes nearly the same of any sound, and codes hang on the last bits
        left = made.encoder(torch.from_numpy(samples)[None, None])
        for level in made.quantizer.vq.layers:
            level._codebook.embed.copy_(left[0].T[torch.randperm(left.shape[2])[:64]])
            level._codebook.inited.fill_(True)
            left = left - level.decode(level.encode(left))
    torch.save(made.state_dict(), path / "SpeechTokenizer.pt")
    return path


def test_the_package_is_loaded_past_its_trainer() -> None:
    """In a process of its own: neither its trainer nor what that needs is imported, and the package is as if never imported."""
    code = (
        "import sys; from transforms.past_init import submodule; submodule('speechtokenizer', 'model')\n"
        "print(*sorted({m.partition('.')[0] for m in sys.modules} & {'torchaudio', 'accelerate', 'lion_pytorch'}))\n"
        "print('speechtokenizer' in sys.modules, 'speechtokenizer.trainer' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["", "False False"]
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        submodule("no_such_package", "model")


def test_codes_are_the_packages_own(folder: Path, speech: list[Clip]) -> None:
    import torch

    samples = sixteen(speech[0], 3.0)
    codec = make_codec(options(folder))
    whole = network(CONFIG).eval()
    whole.load_state_dict(torch.load(folder / "SpeechTokenizer.pt", weights_only=True))
    with torch.inference_mode():
        theirs = whole.encode(torch.from_numpy(samples)[None, None])
        sound = whole.decode(theirs)[0, 0].numpy()
    codes = codec.encode(samples)
    np.testing.assert_array_equal(codes, theirs[:, 0].numpy())
    assert len(np.unique(codes[0])) > 8  # the books are of this encoder, so that many of their entries are used
    np.testing.assert_array_equal(codec.decode(codes), sound)
    # The first books are those of all, and decode by themselves.
    three = make_codec(options(folder, 3))
    np.testing.assert_array_equal(three.encode(samples), codes[:3])
    assert three.decode(codes[:3]).shape == sound.shape
    assert np.abs(three.decode(codes[:3]) - sound).max() > 0


@pytest.mark.parametrize("n", [0, 1, 319, 320, 321, 40000])
def test_frames_sound_and_the_card(folder: Path, n: int) -> None:
    stage = Codec(options(folder, 4))
    stage.setup()
    card = stage.tokenizer()
    assert (card.hop, card.sizes, card.semantic, card.frames, card.rate_hz) == (320, (64,) * 4, 1, "ceil", 50.0)
    assert Tokenizer.from_json(json.loads(json.dumps(card.as_json()))) == card
    samples = np.random.default_rng(n).normal(0, 0.2, n).astype(np.float32)
    made = stage(Block(0, 16000, utterances=[Utterance("a", -1, 0, n, samples, 16000)])).utterances[0]
    assert made.codec_codes is not None
    assert made.codec_codes.shape == (4, card.n_frames(n)) == (4, -(-n // 320))
    decoded, rate_hz = decode_codes(options(folder, 4), made.codec_codes)
    assert (len(decoded), rate_hz) == (320 * made.codec_codes.shape[1], 16000)


def test_chunks_with_context_come_near_the_codes_of_the_whole(folder: Path, speech: list[Clip]) -> None:
    """Its encoder ends in an LSTM of both directions, which hears all of the sound: near, and nearer with more context."""
    codec = make_codec(options(folder))
    samples = sixteen(speech[0], 6.0)
    whole = codec.encode(samples)
    none, second = (share_equal(whole, encode_in_chunks(codec, samples, 100, context)).min() for context in (0, 50))
    assert second > 0.99 > none


def test_what_is_no_speechtokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 1 to 8"):
        make_codec(options(folder, 9))
    with pytest.raises(UserError, match=r"not a SpeechTokenizer folder of config\.json and one \.pt file"):
        make_codec(options(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UserError, match=r"0 \.pt or \.dev files in it"):
        make_codec(options(tmp_path))
    (tmp_path / "ckpt.dev").write_bytes((folder / "SpeechTokenizer.pt").read_bytes())
    assert make_codec(options(tmp_path)).sizes == (64,) * 8
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"dimension": 64}))
    with pytest.raises(UserError, match="size mismatch"):
        make_codec(options(tmp_path))
