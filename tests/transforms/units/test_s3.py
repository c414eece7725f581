"""S3 tokenizers: small random ones of the package's own classes, written as the ONNX graphs that are published, and read here."""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import Block, Tokenizer, Utterance
from schemas.errors import UserError
from tests.conftest import Clip
from transforms.past_init import submodule
from transforms.resample import resample
from transforms.units.s3 import S3Tokenizer, log_mel
from transforms.units.stage import Units, UnitsOptions

SHAPE = {"n_audio_ctx": 3000, "n_audio_state": 128, "n_audio_head": 2, "n_audio_layer": 2}
KINDS = {"v1": ("speech_tokenizer_v1", 320, 4096), "v1-25hz": ("speech_tokenizer_v1_25hz", 640, 4096)}
KINDS |= {"v2": ("speech_tokenizer_v2_25hz", 640, 6561)}


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Modules that s3tokenizer.utils imports and that its networks do not use, as empty ones for the while."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update({name: types.ModuleType(name) for name in absent})
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


try:
    with without("torchaudio", "onnx"):
        v1, v2 = (submodule("s3tokenizer", name) for name in ("model", "model_v2"))
except ImportError as error:
    pytest.skip(f"needs s3tokenizer (pip install --no-deps s3tokenizer==0.3.0): {error}", allow_module_level=True)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """A network of the package, and the ONNX file of it: log-mel `[1, 128, T]` and its length int32 `[1]` in, units out."""
    import torch

    name, _, size = KINDS[request.param]
    torch.manual_seed(0)
    if request.param == "v2":
        network = v2.S3TokenizerV2(name, v2.ModelConfig(**SHAPE)).eval()
    else:
        network = v1.S3Tokenizer(name, v1.ModelConfig(**SHAPE)).eval()
        network.quantizer._codebook.embed.copy_(torch.nn.functional.normalize(torch.randn(size, 128), dim=-1))
    network.requires_grad_(False)
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter.mul_(2)  # as drawn, it makes nearly the same of any sound
        # It hears what is near, as a trained one does mostly; as drawn, all of a window counts alike.
        for block in network.encoder.blocks:
            block.attn.out.weight.mul_(0.01)
        if request.param != "v2":
            network.encoder.positional_embedding.mul_(0.01)
    path = tmp_path_factory.mktemp("s3") / f"speech_tokenizer_{request.param}.onnx"

    class Graph(torch.nn.Module):
        def forward(self, mel: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
            return network.quantizer.encode(network.encoder(mel, length)[0])

    def all_there(lengths: torch.Tensor, max_len: int = 0) -> torch.Tensor:
        return torch.arange(lengths[0])[None] < lengths[:, None]

    given = torch.randn(1, 128, 400), torch.tensor([400], dtype=torch.int32)
    axes = {"mel": {2: "t"}, "units": {1: "u"}}
    patch = pytest.MonkeyPatch()
    # A trace cannot hold masks whose length is a Python number, nor complex numbers.
    patch.setattr(v1, "make_non_pad_mask", all_there)
    patch.setattr(v2, "make_non_pad_mask", all_there)
    # What it would do is nothing here, and it asks for the package onnx.
    exporter = "torch.onnx._internal.torchscript_exporter.onnx_proto_utils._add_onnxscript_fn"
    patch.setattr(exporter, lambda graph, custom_opsets: graph)
    if request.param == "v2":
        complex_numbers, pairs = network.encoder.freqs_cis, torch.view_as_real(network.encoder.freqs_cis)
        patch.setattr(network.encoder, "freqs_cis", pairs)
        patch.setattr(torch, "view_as_real", lambda numbers: numbers)
    with patch.context(), torch.inference_mode():
        names = {"input_names": ["mel", "length"], "output_names": ["units"]}
        torch.onnx.export(Graph(), given, str(path), dynamic_axes=axes, dynamo=False, **names)
    patch.undo()
    if request.param == "v2":
        assert network.encoder.freqs_cis is complex_numbers
    return request.param, network, path


def sixteen(clips: list[Clip], seconds: float) -> np.ndarray:
    whole = np.concatenate([resample(clip.samples, clip.rate_hz, 16000) for clip in clips])
    return np.resize(whole, int(16000 * seconds))


def test_units_are_the_packages_own(made: tuple[str, Any, Path], speech: list[Clip]) -> None:
    import torch

    _, network, path = made
    samples = sixteen(speech, 4.03)
    mel = torch.from_numpy(log_mel(samples))[None]
    theirs, lengths = network.quantize(mel, torch.tensor([mel.shape[2]]))
    units = S3Tokenizer(str(path)).encode(samples)
    assert len(units) == int(lengths[0])
    # Rounding differs between torch and onnxruntime, and may turn a unit that is near a border.
    assert (units == theirs[0].numpy()).mean() > 0.98
    assert len(np.unique(units)) > 5


@pytest.mark.parametrize("n", [0, 1, 159, 160, 161, 319, 640, 641, 16000, 16159])
def test_frames_and_the_card(made: tuple[str, Any, Path], speech: list[Clip], n: int) -> None:
    kind, _, path = made
    _, hop, size = KINDS[kind]
    stage = Units(UnitsOptions(backend="s3", model=str(path)))
    stage.setup()
    card = stage.tokenizer()
    assert (card.hop, card.sizes, card.rate_hz) == (hop, (size,), 16000 / hop)
    assert Tokenizer.from_json(card.as_json()) == card
    assert list(stage.weights()) == [str(path)]
    samples = sixteen(speech, 2.0)[:n]
    (done,) = stage(Block(0, 16000, utterances=[Utterance("a", -1, 0, n, samples, 16000)])).utterances
    assert done.units is not None
    assert done.unit_run_lengths is not None
    assert done.unit_run_lengths.sum() == card.n_frames(n) == -(-(n // 160) * 160 // hop)
    assert (np.diff(done.units) != 0).all()
    assert not n or done.units.max(initial=0) < size


def test_long_sound_is_heard_in_the_packages_windows(made: tuple[str, Any, Path], speech: list[Clip]) -> None:
    import torch

    _, network, path = made
    tokenizer = S3Tokenizer(str(path))
    # In 53 s its last window lies within the one before, and the package loses what that one should have given.
    for seconds, lost_s in ((50.01, 0), (53.01, 2)):
        samples = sixteen(speech, seconds)
        mel = torch.from_numpy(log_mel(samples))[None]
        theirs, lengths = network.quantize(mel, torch.tensor([mel.shape[2]]))
        units = tokenizer.encode(samples)
        assert len(units) == tokenizer.card.n_frames(len(samples))
        assert len(units) - int(lengths[0]) == lost_s * tokenizer.card.rate_hz
        assert (units[: int(lengths[0])] == theirs[0].numpy()).mean() > 0.98


def test_windows_come_near_the_units_of_the_whole(made: tuple[str, Any, Path], speech: list[Clip]) -> None:
    """Nearer in v2, whose encoder goes by distances; the first goes by the place in the window, which is another there."""
    tokenizer = S3Tokenizer(str(made[2]))
    mel = log_mel(sixteen(speech, 24.0))
    whole, parts = tokenizer._run(mel), tokenizer._in_windows(mel, 1000, 400)
    assert len(whole) == len(parts)
    assert (whole == parts).mean() > (0.9 if made[0] == "v2" else 0.8)


def test_what_is_no_s3_tokenizer_is_refused(made: tuple[str, Any, Path], tmp_path: Path) -> None:
    for name, said in (
        ("model.onnx", "does not say which version"),
        ("model_v2.onnx", "not an S3 tokenizer's ONNX file"),
    ):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(UserError, match=said):
            S3Tokenizer(str(tmp_path / name))
    with pytest.raises(ValueError, match="units of its own, and layer, normalize is given"):
        UnitsOptions(backend="s3", model=str(made[2]), layer=9, normalize=True)
