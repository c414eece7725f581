"""What can be put around the trunk: fusion, depth transformers, heads for continuous targets, LoRA, the frozen trunk."""

import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from schemas.errors import UserError
from tests.training.conftest import CARDS
from training import lora
from training.checkpoint import build, load
from training.generate import Sampling, generate
from training.heads import FlowHead, GaussianHead, NormalHead
from training.layouts import CodecLayoutOptions, TasteLayoutOptions, make
from training.layouts.base import IGNORE, NOTHING
from training.loader import Loader, Position
from training.model import HybridLM, load_trunk
from training.options import GaussianOptions, TrainOptions
from training.packing import Batch, thin
from training.reader import Corpus
from training.text import load_text
from training.train import make_optimizer, make_trained, train

Write = Callable[..., Path]
SMALL = {"kind": "moshi", "layers": 1, "width": 16, "heads": 2}


def settings(**changed: Any) -> TrainOptions:
    small = {"seq_len": 128, "batch_tokens": 256, "trunk_layers": 2, "layout": {"name": "codec"}, "lr": 1e-2}
    return TrainOptions.model_validate(small | {"steps": 3, "eval_every": 0, "warmup": 1} | changed)


def one(corpus: Path, trunk: Path, options: TrainOptions) -> tuple[HybridLM, Batch]:
    text = load_text(trunk)
    layout = make(options.layout, text.vocabulary, CARDS)
    model = build(load_trunk(trunk, 2), layout, options)
    batch, _ = next(Loader([Corpus(corpus)], layout, text, options).train(Position()))
    return model, batch


def learn(model: HybridLM, batch: Batch, options: TrainOptions, steps: int = 8) -> list[float]:
    optimizer = make_optimizer(model, options)
    losses = []
    for _ in range(steps):
        loss, _ = model.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("config", [Qwen2Config, Qwen3Config], ids=lambda c: c.__name__)
def test_other_trunks_learn(write_corpus: Write, trunk: Path, config: Any) -> None:
    """Llama is every other test's trunk, and SmolLM2, which is one, that of test_model."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    made = AutoModelForCausalLM.from_config(
        config(vocab_size=400, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, **shape)
    )
    options = settings()
    _, batch = one(write_corpus(), trunk, options)
    layout = make(options.layout, load_text(trunk).vocabulary, CARDS)
    losses = learn(build(made, layout, options), batch, options)
    assert losses[-1] < losses[0] - 0.1


def test_softmax_fusion_takes_a_lone_modality_whole(write_corpus: Write, trunk: Path) -> None:
    plain, _ = one(write_corpus(), trunk, settings())
    fused, _ = one(write_corpus(), trunk, settings(model={"fusion": "softmax"}))
    both, text, speech = torch.tensor([[[5, 1, 2, 3]], [[5, -1, -1, -1]], [[NOTHING, 1, 2, 3]]]).split(1)
    torch.testing.assert_close(fused.embed(text), plain.embed(text))
    torch.testing.assert_close(fused.embed(speech), plain.embed(speech))
    share = torch.tensor([-2.0, 2.0]).softmax(0)
    torch.testing.assert_close(fused.embed(both), share[0] * plain.embed(speech) + share[1] * plain.embed(text))


@pytest.mark.parametrize("kind", ["moshi", "csm"])
def test_a_depth_transformer_sees_the_rows_before_and_not_those_after(
    write_corpus: Write, trunk: Path, kind: str
) -> None:
    options = settings(model={"depth": SMALL | {"kind": kind, "share": 1.0}})
    model, batch = one(write_corpus(), trunk, options)
    assert model.depth
    learn(model, batch, options)  # so that heads are no longer zero
    states = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, 1, 2], [5, 1, 2]])
    whole = model.depth_logits(states, ids)
    assert [logits.shape[1] for logits in whole] == [row.n_ids for row in model.rows[model.depth.first :]]
    for n in range(model.depth.first, 4):
        torch.testing.assert_close(model.depth_logits(states, ids[:, :n])[-1], whole[n - model.depth.first])
    changed = ids.clone()
    changed[0, 1] = 7  # row 1: seen by row 2 and later ones
    other = model.depth_logits(states, changed)
    at = 2 - model.depth.first
    assert not torch.allclose(whole[at][0], other[at][0])
    torch.testing.assert_close(whole[at][1], other[at][1])
    for before in range(at):
        torch.testing.assert_close(whole[before], other[before])


def test_a_share_of_positions_keeps_the_mean(write_corpus: Write, trunk: Path) -> None:
    """CSM's amortisation: fewer labels, heavier, and the first codebook on all positions."""
    options = settings(model={"depth": SMALL | {"kind": "csm"}}, batch_tokens=2048)
    _, batch = one(write_corpus(n_train=60), trunk, options)
    _, full = one(write_corpus("again", n_train=60), trunk, settings(batch_tokens=2048))
    kept, all_of = ((b.labels != IGNORE).sum((0, 1)) for b in (batch, full))
    assert kept[:2].tolist() == all_of[:2].tolist()
    assert kept[2:] == pytest.approx(all_of[2:] / 16, rel=0.6)
    assert (batch.weights[..., 2:][batch.labels[..., 2:] != IGNORE] == 16).all()
    again = [thin(next(iter([full.share(0, 1)])), 2, 0.5, np.random.default_rng(7)).labels for _ in range(2)]
    np.testing.assert_array_equal(*again)


@pytest.mark.parametrize("kind", ["moshi", "csm"])
def test_sampling_row_by_row_is_what_the_depth_transformer_says(
    write_corpus: Write, trunk: Path, tmp_path: Path, kind: str
) -> None:
    """Greedy sampling, retraced over the finished sequence: every drawn code is the likeliest given the rows before it."""
    options = settings(model={"depth": SMALL | {"kind": kind, "share": 1.0}}, steps=6)
    train(options, [write_corpus()], trunk, tmp_path / "out", lambda line: None)
    run = load(tmp_path / "out")
    spoken = generate(run, "yes", max_s=0.6, sampling=Sampling(temperature=0))
    assert run.model.depth
    inputs = torch.from_numpy(spoken.inputs)
    with torch.no_grad():
        hidden = run.model.hidden(inputs[None])[0]
        found = run.model.depth_logits(hidden[:-1], inputs[1:, :-1])
    n_drawn = 0
    for r, logits in enumerate(found, start=run.model.depth.first):
        row = run.layout.rows[r]
        drawn = spoken.inputs[1:, r] < row.size
        np.testing.assert_array_equal(spoken.inputs[1:, r][drawn], logits[:, : row.size].argmax(-1).numpy()[drawn])
        n_drawn += int(drawn.sum())
    assert n_drawn > 5


@pytest.fixture
def codebooks(tmp_path: Path) -> Path:
    random = torch.Generator().manual_seed(3)
    safetensors.torch.save_file({"rvq": torch.randn(2, 16, 6, generator=random)}, tmp_path / "rvq.safetensors")
    return tmp_path / "rvq.safetensors"


def test_a_gaussian_head_learns_and_speaks_codes(
    write_corpus: Write, trunk: Path, tmp_path: Path, codebooks: Path
) -> None:
    cards = CARDS | {"taste": CARDS["taste"].__class__("taste", "test-taste", "7a57e", 16000, 0, (16, 16), "word")}
    latent = {"name": "gaussian", "codebooks": str(codebooks), "tensor": "rvq", "dim": 6}
    options = settings(layout={"name": "taste"}, model={"latent": latent, "fusion": "softmax"}, steps=30)
    corpus = write_corpus(cards=cards)
    result = train(options.model_copy(update={"eval_every": 30}), [corpus], trunk, tmp_path / "out", lambda line: None)
    assert result.before
    assert result.after
    assert result.after["streams"]["latent"]["loss"] < result.before["streams"]["latent"]["loss"]
    codebooks.unlink()  # a checkpoint holds them
    run = load(tmp_path / "out")
    said = generate(run, "ask what you can", sampling=Sampling(temperature=0))
    assert said.codes.shape == (len(said.words), 2)
    assert ((said.codes >= 0) & (said.codes < 16)).all()
    # A vector that is exactly a sum of codes is quantised to these.
    gaussian = run.model.gaussian
    assert gaussian
    z = gaussian.vectors(torch.tensor([[3, 5]]), torch.tensor([[True, True]]))[0]
    torch.testing.assert_close(z, gaussian.codebooks[0, 3] + gaussian.codebooks[1, 5])
    safetensors.torch.save_file({"rvq": torch.zeros(2, 16, 6)}, codebooks)
    wrong = settings(layout={"name": "taste"}, model={"latent": latent | {"dim": 9}})
    with pytest.raises(UserError, match=r"\[2, 16, 6\], and the layout needs \[2, 16, 9\]"):
        train(wrong, [corpus], trunk, tmp_path / "b", lambda line: None)


def test_the_gaussian_loss_is_the_formula(write_corpus: Write, trunk: Path) -> None:
    head = GaussianHead(4, [8, 8], GaussianOptions(codebooks="", dim=3), torch.Generator().manual_seed(0))
    state, c, noise = torch.randn(3, 4), torch.randn(3, 3), torch.randn(3, 3)
    with torch.no_grad():
        head.log_variance.copy_(torch.tensor([0.1, -0.4, 0.7]))
        found = head.losses(state, c, noise)
        mu, v = head.mean(state), head.log_variance.clone()
    for n in range(3):
        mse = np.mean([float(mu[n, i] + (v[i] / 2).exp() * noise[n, i] - c[n, i]) ** 2 for i in range(3)])
        kl = 0.5 * np.mean([float(v[i].exp() + (mu[n, i] - c[n, i]) ** 2 - 1 - v[i]) for i in range(3)])
        assert float(found[n]) == pytest.approx(0.5 * mse + 0.5 * kl, rel=1e-5)


@pytest.mark.parametrize("scale", [0.1, 60.0])
def test_a_gaussian_head_begins_with_the_distribution_of_normalised_latents(scale: float) -> None:
    """Whatever the size of the states: a negative log-likelihood of a unit Gaussian's entropy, and the loss that goes with it."""
    random = torch.Generator().manual_seed(1)
    head = NormalHead(64, 16, random)
    states = scale * torch.randn(2000, 64, generator=random)
    target, noise = torch.randn(2, 2000, 16, generator=random)
    with torch.no_grad():
        predicted = torch.distributions.Normal(head.mean(states), (0.5 * head.log_variance).exp())
        assert float(-predicted.log_prob(target).mean()) == pytest.approx(
            0.5 * math.log(2 * math.pi * math.e), abs=0.02
        )
        # Half of the squared difference of two unit Gaussians, 2, and a quarter of the square of one.
        assert float(head.losses(states, target, noise).mean()) == pytest.approx(1.25, abs=0.03)
        drawn = head.sample(states, random)
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.02)


def test_a_gaussian_head_begins_at_the_codes_mean(codebooks: Path) -> None:
    options = GaussianOptions(codebooks=str(codebooks), tensor="rvq", dim=6)
    head = GaussianHead(4, [16, 16], options, torch.Generator().manual_seed(0))
    head.load_codebooks(options, 1.0)
    ids = torch.cartesian_prod(torch.arange(16), torch.arange(16))
    vectors = head.vectors(ids, torch.ones_like(ids, dtype=torch.bool))
    torch.testing.assert_close(head.mean(torch.randn(1, 4))[0], vectors.mean(0))


def test_a_flow_head_learns_where_latents_are(write_corpus: Write, trunk: Path) -> None:
    """Latents that follow from the text id: the samples come near to them, and far from each other's."""
    options = settings(model={"latent": {"name": "flow", "dim": 2, "width": 32, "depth": 2, "draws": 8}}, trunk_lr=0)
    model, batch = one(write_corpus(), trunk, options)
    assert isinstance(model.latent_head, FlowHead)
    side = (np.arange(batch.inputs.shape[1]) % 2 * 2 - 1).astype(np.float32)
    there = batch.documents >= 0
    batch.latent_labels = np.where(there[..., None], side[None, :, None] * np.array([1.0, -1.0], np.float32), np.nan)
    batch.latents = np.where(there[..., None], -side[None, :, None] * np.ones(2, np.float32), np.nan).astype(np.float32)
    batch.latent_labels = batch.latent_labels.astype(np.float32)
    losses = learn(model, batch, options, 60)
    assert losses[-1] < losses[0] - 1
    with torch.no_grad():
        hidden = model.batch_hidden(batch)[torch.from_numpy(there)]
        samples = model.latent_head.sample(hidden, torch.Generator().manual_seed(0))
    target = torch.from_numpy(batch.latent_labels[there])
    assert float((samples.sign() == target.sign()).float().mean()) > 0.95
    # A part of the batch draws what the whole drew for its rows.
    model.train()
    parts = [model(batch.share(i, 2))[0].item() for i in range(2)]
    assert sum(parts) == pytest.approx(model(batch)[0].item(), rel=1e-4)


def test_lora_trains_adapters_alone_and_merges(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    options = settings(model={"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}, trunk_lr=1e-2)
    model, batch = one(write_corpus(), trunk, options)
    names = [name for name in make_trained(model, options) if name.startswith("trunk.")]
    assert names
    assert all(lora.is_adapter(name) for name in names)
    assert len(names) == 2 * 2 * 7  # two matrices, two layers, seven linear maps each
    plain, _ = one(write_corpus("b"), trunk, settings())
    with torch.no_grad():
        torch.testing.assert_close(model.batch_hidden(batch), plain.batch_hidden(batch))
    learn(model, batch, options)
    ids = torch.tensor(
        [[[5, -1, -1, -1], [9, -1, -1, -1], [7, -1, -1, -1]]]
    )  # text tokens, whose embeddings are frozen
    with torch.no_grad():
        trained = model.hidden(ids)
        assert not torch.allclose(trained, plain.hidden(ids), atol=1e-3)
        with lora.without_adapters(model.trunk):
            torch.testing.assert_close(model.hidden(ids), plain.hidden(ids))
        lora.merge(model.trunk)
        torch.testing.assert_close(model.hidden(ids), trained, rtol=1e-4, atol=1e-4)
    assert not any(lora.is_adapter(name) for name, _ in model.named_parameters())


def test_lora_is_saved_and_resumed_to_the_bit(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    """With dropout, whose random state is saved too."""
    corpus = write_corpus()
    options = settings(model={"lora": {"rank": 4, "alpha": 8, "dropout": 0.3}}, steps=4, schedule="constant")
    straight = train(options, [corpus], trunk, tmp_path / "a", lambda line: None)
    train(options.model_copy(update={"steps": 2}), [corpus], trunk, tmp_path / "b", lambda line: None)
    halves = train(options, [corpus], trunk, tmp_path / "b", lambda line: None)
    one_, two = (safetensors.torch.load_file(r.checkpoint / "model.safetensors") for r in (straight, halves))
    assert all(torch.equal(one_[name], two[name]) for name in one_)


@pytest.mark.parametrize("how", ["lora", "copy", "frozen"])
def test_the_comparison_with_the_frozen_trunk(write_corpus: Write, trunk: Path, how: str) -> None:
    """Against the trunk run on a document's text tokens alone, by hand; it stays where it was while the model is trained."""
    changed: dict[str, Any] = {"loss": {"text_kl": 1.0, "text_weight": 1.0, "speech_weight": 0.0}}
    if how == "lora":
        changed["model"] = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}
    options = settings(**changed, trunk_lr=0.0 if how == "frozen" else 1e-2)
    model, batch = one(write_corpus(), trunk, options)
    assert (model.base is not None) == (how == "copy")
    learn(model, batch, options, 3)
    found = model.label_losses(batch)
    assert found.divergence
    base = load_trunk(trunk, 2)
    values, (rows, columns) = found.divergence
    hidden = model.batch_hidden(batch)
    checked = 0
    for value, nll, b, s in islice(zip(values, found.text_tokens, rows.tolist(), columns.tolist(), strict=True), 40):
        text = batch.inputs[b, : s + 1, 0][batch.documents[b, : s + 1] == batch.documents[b, s]]
        ids = torch.from_numpy(text[(text >= 0) & (text < model.vocab_size)])[None]
        if not ids.numel():
            assert float(value) == 0
            continue
        with torch.no_grad():
            theirs = base(input_ids=ids).logits[0, -1].log_softmax(-1)
            ours = model.trunk.get_output_embeddings()(hidden[b, s]).log_softmax(-1)
        kl = float((theirs.exp() * (theirs - ours)).sum())
        assert float(value + nll) == pytest.approx(kl, abs=1e-3)
        checked += 1
    assert checked > 10


def test_presets_weigh_as_their_systems_do(write_corpus: Write, trunk: Path) -> None:
    options = settings(loss={"preset": "moshi"})
    model, batch = one(write_corpus(), trunk, options)
    assert (model.text_weight, model.speech_weight, model.text_kl) == (1.0, 1.0, 0.0)
    text, learnt = batch.labels[..., 0], batch.labels != IGNORE
    row = model.rows[0]
    is_pad = np.isin(text, [row.special("pad"), row.special("epad")])
    assert (batch.weights[..., 0][is_pad] == 0.5).all()
    assert (batch.weights[..., 0][learnt[..., 0] & ~is_pad] == 1).all()
    assert (batch.weights[..., 1][learnt[..., 1]] == 100).all()
    assert (batch.weights[..., 2:][learnt[..., 2:]] == 1).all()
    assert settings(loss={"preset": "taslm"}).loss.resolved(TasteLayoutOptions()).text_kl == 0.9
    kimi = settings(loss={"preset": "kimi", "speech_weight": 0.5}).loss.resolved(CodecLayoutOptions())
    assert (kimi.text_weight, kimi.speech_weight) == (0.875, 0.5)
    with pytest.raises(UserError, match="no stream nonsense, but text, codec_0"):
        one(write_corpus("c"), trunk, settings(loss={"streams": {"nonsense": 1.0}}))


@torch.no_grad()
def test_flex_attention_keeps_documents_apart_too(write_corpus: Write, trunk: Path) -> None:
    model, batch = one(write_corpus(), trunk, settings())
    there = torch.from_numpy(batch.documents >= 0)
    masked = model.batch_hidden(batch)[there]
    model.trunk.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model.batch_hidden(batch)[there], masked, rtol=1e-3, atol=1e-3)
