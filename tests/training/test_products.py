"""Linear maps through oneDNN: those of BLAS up to rounding, with their gradients, compiled or not; and which machines take them."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.training.test_train import options, steps_of
from training import products
from training.checkpoint import load
from training.products import OneDnnLinear, suits, through_onednn
from training.train import train

Write = Callable[..., Path]
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def pair(k: int, n: int, bias: bool) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(k * 100 + n)
    plain = nn.Linear(k, n, bias=bias)
    other = copy.deepcopy(plain)
    through_onednn(other)
    assert type(other) is OneDnnLinear
    return plain, other


@settings(deadline=None)  # the first call of oneDNN makes its kernels
@given(shape=st.lists(st.integers(1, 9), max_size=3), k=st.integers(1, 40), n=st.integers(1, 40), bias=st.booleans())
def test_the_same_map_and_gradients(shape: list[int], k: int, n: int, bias: bool) -> None:
    plain, other = pair(k, n, bias)
    found = []
    for layer in (plain, other):
        # Eighths and small whole numbers: all sums are exact in float32 in whatever order, so that only what is wrong differs.
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(8).round_().div_(8)
        whole = torch.arange(torch.Size([*shape, k]).numel()) % 7 - 3
        x = whole.float().reshape(*shape, k).requires_grad_()
        y = layer(x)
        (y.square().sum() + y.sum()).backward()
        found.append((y, x.grad, layer.weight.grad, *([layer.bias.grad] if bias else [])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_frozen_weights_and_given_inputs_get_no_gradient() -> None:
    _, layer = pair(8, 4, True)
    layer.requires_grad_(False)
    x = torch.ones(3, 8, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 8))


def test_autocast_other_dtypes_and_nothing_at_all_go_as_ever() -> None:
    plain, other = pair(8, 4, True)
    x = torch.linspace(-1, 1, 24).view(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(x), other(x))
    assert torch.equal(plain.double()(x.double()), other.double()(x.double()))
    assert other.float()(x[:0]).shape == (0, 4)


def test_which_machines_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert suits("onednn", CPU)
    assert not suits("blas", CPU)
    assert not suits("onednn", torch.device("meta"))
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(products, "CPUINFO", cpuinfo)
    for text, capability, expected in (
        ("vendor_id\t: AuthenticAMD\n", "AVX512", True),
        ("vendor_id\t: AuthenticAMD\n", "AVX2", False),
        ("vendor_id\t: GenuineIntel\n", "AVX512", False),
        (None, "AVX512", False),
    ):
        cpuinfo.unlink(missing_ok=True)
        if text:
            cpuinfo.write_text(text)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        products.amd.cache_clear()
        assert suits("auto", CPU) is expected
    products.amd.cache_clear()


def test_training_through_onednn_is_training_through_blas(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    """Adapters too, whose inner maps are plain ones; the checkpoint is the same kind of file, and either goes on from it."""
    corpus = write_corpus()
    for name, model in (("plain", {}), ("lora", {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}})):
        logs = []
        for kind in ("blas", "onednn"):
            out = tmp_path / name / kind
            wanted = options(layout={"name": "codec"}, train_text_embeddings=not model, model=model, products=kind)
            train(wanted.model_copy(update={"steps": 4}), [corpus], trunk, out, lambda line: None)
            other = {"blas": "onednn", "onednn": "blas"}[kind]
            train(wanted.model_copy(update={"steps": 6, "products": other}), [corpus], trunk, out, lambda line: None)
            logs.append([entry["loss"] for entry in steps_of(out) if "loss" in entry])
        assert logs[0] == pytest.approx(logs[1], rel=1e-4)
        assert len(logs[0]) == 6
        names = [set(load(tmp_path / name / kind).model.state_dict()) for kind in ("blas", "onednn")]
        assert names[0] == names[1]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_compiled_it_is_the_same() -> None:
    plain, other = pair(24, 12, True)
    other.compile()
    x, y = (torch.linspace(-1, 1, 5 * 24).view(5, 24).requires_grad_() for _ in range(2))
    for layer, own in ((plain, x), (other, y)):
        layer(torch.tanh(own)).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.weight.grad, other.weight.grad, rtol=1e-4, atol=1e-5)
