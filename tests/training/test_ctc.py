"""Units read off the text's states by CTC: the loss, its way through packing and processes, and what is read in the end."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.training.conftest import CARDS
from training.checkpoint import build, load
from training.ctc import ctc_losses
from training.generate import generate
from training.layouts import make
from training.loader import Loader
from training.model import HybridLM, load_trunk
from training.options import TrainOptions
from training.packing import Batch, collate, pack
from training.reader import Corpus
from training.text import load_text
from training.train import train

Write = Callable[..., Path]


def settings(**changed: Any) -> TrainOptions:
    small = {"seq_len": 128, "batch_tokens": 128, "trunk_layers": 2, "lr": 1e-2, "trunk_lr": 1e-2, "warmup": 5}
    layout = {"name": "llama-omni", "upsample": 6}
    return TrainOptions.model_validate(small | {"layout": layout, "steps": 120, "schedule": "constant"} | changed)


def packed(corpus: Path, trunk: Path) -> tuple[HybridLM, Batch, list[Any]]:
    """A model whose heads are no zeros, and one batch of all rows with what they were laid out as."""
    text, options = load_text(trunk), settings()
    layout = make(options.layout, text.vocabulary, CARDS)
    laid = list(Loader([Corpus(corpus)], layout, text, options).sequences([0], "train"))
    model = build(load_trunk(trunk, 2), layout, options).eval()
    assert model.speech_head is not None
    torch.nn.init.normal_(model.speech_head.weight, generator=torch.Generator().manual_seed(1))
    return model, collate(pack(laid, 128), 128), laid


def test_a_document_has_the_loss_it_has_alone(write_corpus: Write, trunk: Path) -> None:
    """Packed with others, in a part of a batch, and by the definition: on its own states, blank last."""
    model, batch, laid = packed(write_corpus(n_train=8, n_heldout=0), trunk)
    assert len(batch.ctc) == 8
    whole = model.label_losses(batch)
    assert whole.ctc is not None
    alone = {
        s.id: float(found.ctc)
        for s in laid
        if (found := model.label_losses(collate(pack([s], 128), 128))).ctc is not None
    }
    # `batch.ids` goes through the documents in the order that `batch.ctc` does.
    expected = [alone[name] for name in batch.ids]
    assert whole.ctc.tolist() == pytest.approx(expected, rel=1e-4)
    parts = [model(batch.share(part, 3)) for part in range(3)]
    assert sum(float(loss) for loss, _ in parts) == pytest.approx(float(model(batch)[0]), rel=1e-4)
    units = sum(len(s.ctc_targets) for s in laid)
    streams = whole.by_stream()
    assert streams.count["units"] == units == batch.n_units
    assert streams.means()["units"] == pytest.approx(sum(expected) / units, rel=1e-4)


def test_loss_is_the_sum_over_all_paths() -> None:
    """Three copies, target 0 1, blank 2: the paths 001 011 201 021 012."""
    logits = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0))
    p = F.softmax(logits[0].double(), -1)
    paths = [(0, 0, 1), (0, 1, 1), (2, 0, 1), (0, 2, 1), (0, 1, 2)]
    total = sum(p[0, a] * p[1, b] * p[2, c] for a, b, c in paths)
    found = ctc_losses(logits, [3], [torch.tensor([0, 1])], blank=2)
    assert float(found) == pytest.approx(-float(torch.as_tensor(total).log()), rel=1e-5)


def test_the_copies_of_each_token_differ(write_corpus: Write, trunk: Path) -> None:
    """The first token's too, which see BOS: greedy reading could say one unit of them at most, were they the same."""
    model, batch, _ = packed(write_corpus(n_train=1, n_heldout=0), trunk)
    states = model.batch_hidden(batch)[0, :3]
    logits = model.ctc_logits([states])[0]
    assert logits.shape[0] == 2 * 6
    for first in (0, 6):
        apart = (logits[first : first + 6, None] - logits[None, first : first + 6]).abs().amax(-1)
        assert (apart + torch.eye(6) > 1e-5).all()


def test_an_utterance_that_was_cut_is_text_alone(write_corpus: Write, trunk: Path) -> None:
    model, batch, laid = packed(write_corpus(n_train=4, n_heldout=0), trunk)
    length = max(len(s.inputs) for s in laid)
    cut = collate(pack(laid, length - 1), length - 1)
    assert len(cut.ctc) < len(laid)
    none = replace(batch, ctc=[])
    loss, found = model(none)
    assert float(found.ctc) == 0
    assert "units" not in found.by_stream().total
    loss.backward()  # every weight has a gradient, as several processes need it
    assert model.ctc is not None
    assert all(p.grad is not None for p in model.ctc.parameters())


def test_held_out_units_are_reported(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    corpus = write_corpus(n_train=6, n_heldout=2)
    result = train(settings(steps=20), [corpus], trunk, tmp_path / "out", lambda line: None)
    assert result.before is not None
    assert result.after is not None
    before, after = (report["streams"]["units"] for report in (result.before, result.after))
    assert after["loss"] < before["loss"] - 1
    rows = list(Corpus(corpus).rows("heldout", ("units",)))
    assert after["labels"] == sum(len(row["units"]) for row in rows)
    checkpoint = load(tmp_path / "out")
    found = generate(checkpoint, prefix=next(Corpus(corpus).rows("heldout", checkpoint.layout.columns)), max_s=1.0)
    # What is read off is the collapsed likeliest path of the copies: no blank, and few enough for them.
    np.testing.assert_array_equal(found.units, checkpoint.model.read_units(found.inputs))
    assert len(found.units) <= 6 * len(found.inputs)
    assert not len(found.units) or found.units.max() < 24
