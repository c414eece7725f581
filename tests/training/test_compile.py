"""`train.compile` run for real: the losses of the run that is not compiled, and a run that goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.training.test_train import options, steps_of
from training.checkpoint import load
from training.train import train

Write = Callable[..., Path]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.parametrize("products", ["blas", "onednn"])
def test_a_compiled_run_learns_the_same_and_goes_on(
    write_corpus: Write, trunk: Path, tmp_path: Path, products: str
) -> None:
    corpus, plain = write_corpus(), options(steps=6, layout={"name": "codec"}, products=products)
    wanted = plain.model_copy(update={"compile": True})
    train(plain, [corpus], trunk, tmp_path / "plain", lambda line: None)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    train(wanted, [corpus], trunk, tmp_path / "straight", lambda line: None)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    train(wanted.model_copy(update={"steps": 3}), [corpus], trunk, tmp_path / "halves", lambda line: None)
    train(wanted, [corpus], trunk, tmp_path / "halves", lambda line: None)

    def losses(name: str) -> list[float]:
        return [entry["loss"] for entry in steps_of(tmp_path / name) if "loss" in entry]

    assert losses("straight") == pytest.approx(losses("plain"), rel=1e-3)
    assert losses("halves") == losses("straight")
    one, two = (load(tmp_path / name).model.state_dict() for name in ("straight", "halves"))
    assert set(one) == set(load(tmp_path / "plain").model.state_dict())  # no name of the compiler's
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)
