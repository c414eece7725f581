"""Layout latents: its inverse, its noise, what is sampled from it, and both heads learning what comes next."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas import Latents
from schemas.errors import UserError
from tests.training.conftest import CARDS
from tests.training.laid import CARDS as LAID
from tests.training.laid import VOCABULARY, examples, layout_of, shown
from training.checkpoint import load
from training.generate import Sampling, generate
from training.heads import FlowHead
from training.layouts import NAMES, Example, Layout, make
from training.layouts.latents import LatentsLayout
from training.loader import Loader, Position
from training.options import FlowOptions, TrainOptions
from training.packing import collate, pack, redraw
from training.reader import Corpus
from training.scoring import lay
from training.text import load_text
from training.train import train

Write = Callable[..., Path]
HEADS = {"flow": {"name": "flow", "width": 32, "depth": 2}, "gaussian": {"name": "gaussian"}}


def settings(**changed: Any) -> TrainOptions:
    small = {"seq_len": 128, "batch_tokens": 256, "trunk_layers": 2, "layout": {"name": "latents"}, "lr": 1e-2}
    return TrainOptions.model_validate(small | {"model": {"latent": HEADS["flow"]}, "warmup": 1} | changed)


def with_card(**changed: Any) -> Layout:
    latents = replace(LAID["codec"].latents, **changed)  # type: ignore[type-var]
    return layout_of("latents", LAID | {"codec": replace(LAID["codec"], latents=latents)})


def spoken(n_frames: int, words: list[list[int]] | None = None) -> Example:
    said = words if words is not None else [[0], [1]]
    latents = np.random.default_rng(n_frames).normal(size=(n_frames, 2)).astype(np.float16)
    return Example(said, np.zeros(len(said)), np.zeros((0, 0), dtype=np.int64), "row", 1.0, latents=latents)


@given(st.data(), st.integers(1, 4))
def test_latents_come_back_and_are_learnt_at_the_position_before(data: st.DataObject, group: int) -> None:
    layout = layout_of("latents", group=group)
    example = data.draw(examples(layout))
    laid = layout.apply(example)
    assert laid.latents is not None
    assert laid.latent_labels is not None
    back = layout.latents_of(laid.inputs, laid.latents)
    # To what float32 keeps beside a mean of 2 and deviations of 4.
    np.testing.assert_allclose(back, example.latents.astype(np.float64), rtol=1e-5, atol=2e-6)
    held = ~np.isnan(laid.latents)
    assert held.sum() == -(-len(example.latents) // group) * 2 * group
    np.testing.assert_array_equal(laid.latent_labels[:-1], laid.latents[1:])
    assert np.isnan(laid.latent_labels[-1]).all()
    # Where a latent is, and only there, the row of frames says how many.
    np.testing.assert_array_equal(held.all(1), np.isin(shown(layout, laid.inputs)[1], list("1234")))


def test_the_last_group_says_how_much_of_it_is_filled() -> None:
    layout = layout_of("latents", group=3)
    laid = layout.apply(spoken(7))
    assert shown(layout, laid.inputs)[1] == ["-", "-", "-", "-", "3", "3", "1", "eos"]
    assert shown(layout, laid.labels)[1] == ["-", "-", "-", "3", "3", "1", "eos", "-"]
    assert laid.latents is not None
    assert (laid.latents[6, 2:] == 0).all()
    # No sound at all is an end right away.
    assert shown(layout, layout.apply(spoken(0)).inputs)[1] == ["-", "-", "-", "-", "eos"]


def test_targets_are_normal_in_the_scale_of_the_card() -> None:
    example = spoken(3)
    example.latents = np.array([[0.5, -2.0], [0.75, 2.0], [0.25, -10.0]], dtype=np.float16)
    laid = layout_of("latents").apply(example)
    assert laid.latents is not None
    assert laid.latents[4:7].tolist() == [[0, 0], [1, 1], [-1, -2]]


@pytest.mark.parametrize("stored", [True, False])
def test_a_vae_is_drawn_anew_and_a_label_is_what_comes_in(stored: bool) -> None:
    layout = with_card(variance=True) if stored else with_card(noise=0.5)
    example = spoken(2000)
    example.latent_variance = np.tile(np.array([0.01, 4.0], dtype=np.float16), (2000, 1))
    laid = layout.apply(example)
    expected = [0.1 / 0.25, 2 / 4.0] if stored else [0.5 / 0.25, 0.5 / 4.0]
    assert laid.latent_noise is not None
    np.testing.assert_allclose(laid.latent_noise[4], expected, rtol=1e-3)
    plain = collate(pack([laid], 256), 256)
    one, same, other = (redraw(collate(pack([laid], 256), 256), np.random.default_rng(s)) for s in (1, 1, 2))
    assert one.latents is not None
    assert one.latent_labels is not None
    np.testing.assert_array_equal(one.latents, same.latents)
    there = ~np.isnan(plain.latents)  # type: ignore[arg-type]
    assert (one.latents != other.latents)[there].all()
    moved = (one.latents - plain.latents)[there.all(-1)]  # type: ignore[operator]
    np.testing.assert_allclose(moved.std(0), expected, rtol=0.1)
    # A label is the very input at the next position; the last of a piece, whose input is elsewhere, is the mean.
    np.testing.assert_array_equal(one.latent_labels[:, :-1], np.where(there[:, 1:], one.latents[:, 1:], np.nan))
    np.testing.assert_array_equal(one.latent_labels[:-1, -1], plain.latent_labels[:-1, -1])  # type: ignore[index]
    np.testing.assert_array_equal(np.isnan(one.latent_labels), np.isnan(plain.latent_labels))  # type: ignore[arg-type]


def test_noise_on_the_inputs_leaves_the_labels(write_corpus: Write, trunk: Path) -> None:
    text = load_text(trunk)
    cards = CARDS | {"codec": replace(CARDS["codec"], latents=replace(CARDS["codec"].latents, variance=False))}  # type: ignore[type-var]
    corpus = write_corpus(cards=cards)
    batches = []
    for noise in (0.0, 0.3):
        options = settings(model={"latent": HEADS["flow"] | {"input_noise": noise}})
        layout = make(options.layout, text.vocabulary, cards)
        batches.append(next(Loader([Corpus(corpus)], layout, text, options).train(Position()))[0])
        assert batches[-1].latent_noise is None
    np.testing.assert_array_equal(batches[0].latent_labels, batches[1].latent_labels)  # type: ignore[arg-type]
    moved = batches[1].latents - batches[0].latents  # type: ignore[operator]
    assert np.nanstd(moved) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("head", HEADS)
def test_the_heads_learn_held_out_latents_and_speak(
    write_corpus: Write, trunk: Path, tmp_path: Path, head: str, group: int
) -> None:
    options = settings(
        steps=40, eval_every=40, model={"latent": HEADS[head]}, layout={"name": "latents", "group": group}
    )
    result = train(options, [write_corpus()], trunk, tmp_path / "out", lambda line: None)
    assert result.before
    assert result.after
    before, after = (report["streams"] for report in (result.before, result.after))
    assert after["latent"]["loss"] < 0.9 * before["latent"]["loss"]
    assert after["frames"]["loss"] < before["frames"]["loss"]
    run = load(tmp_path / "out")
    said = generate(run, "ask what you can", max_s=1.0)
    assert said.text == "ask what you can"
    assert said.latents.shape[1] == 3
    assert len(said.latents) <= 25
    assert np.isfinite(said.latents).all()
    again = generate(run, "ask what you can", max_s=1.0)
    np.testing.assert_array_equal(said.latents, again.latents)


def test_a_run_goes_on_to_the_bit(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    """The latents that are drawn anew too: they depend on seed and place alone."""
    corpus, options = write_corpus(), settings(steps=4, schedule="constant", eval_every=0)
    straight = train(options, [corpus], trunk, tmp_path / "a", lambda line: None)
    train(options.model_copy(update={"steps": 2}), [corpus], trunk, tmp_path / "b", lambda line: None)
    halves = train(options, [corpus], trunk, tmp_path / "b", lambda line: None)
    one, two = (safetensors.torch.load_file(r.checkpoint / "model.safetensors") for r in (straight, halves))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_sampled_is_what_the_head_says_of_all_before_it(
    write_corpus: Write, trunk: Path, tmp_path: Path
) -> None:
    """At temperature 0 a Gaussian gives its mean: retraced over the finished sequence, after real latents that were given."""
    corpus = write_corpus()
    train(settings(steps=6, model={"latent": HEADS["gaussian"]}), [corpus], trunk, tmp_path / "out", lambda line: None)
    run = load(tmp_path / "out")
    row = next(Corpus(corpus).rows("heldout", run.layout.columns))
    n_given = len(row["codec_latents"])
    assert isinstance(run.layout, LatentsLayout)
    # Of equals the first is taken, which is a frame: it goes on to the end.
    torch.nn.init.zeros_(run.model.speech_head.weight)  # type: ignore[union-attr]
    said = generate(run, prefix=row, max_s=(n_given + 5) / 25, sampling=Sampling(temperature=0))
    np.testing.assert_array_equal(said.latents[:n_given].astype(np.float16), row["codec_latents"])
    assert len(said.latents) == n_given + 5
    first = int(np.flatnonzero(said.inputs[:, 1] >= 0)[0])
    latents = np.full((len(said.inputs), 3), np.nan, dtype=np.float32)
    latents[first : first + len(said.latents)] = run.layout.normal(said.latents)
    with torch.no_grad():
        hidden = run.model.hidden(torch.from_numpy(said.inputs)[None], torch.from_numpy(latents)[None])[0]
        expected = run.model.latent_head.mean(hidden[:-1]).numpy()  # type: ignore[union-attr]
    drawn = slice(first + n_given, first + n_given + 5)
    np.testing.assert_allclose(latents[drawn], expected[drawn.start - 1 : drawn.stop - 1], atol=1e-4)
    np.testing.assert_array_equal(np.flatnonzero(said.drawn[:, 1]), np.arange(drawn.start, drawn.stop))


def test_what_does_not_fit_is_refused_by_name(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    options = NAMES["latents"].model_validate({})
    bare = LAID | {"codec": replace(LAID["codec"], latents=None)}
    with pytest.raises(UserError, match=r"layout latents needs continuous latents.*`codec\.latents: true`"):
        make(options, VOCABULARY, bare)
    alone = LAID | {"codec": replace(LAID["codec"], sizes=())}
    with pytest.raises(UserError, match="layout codec needs codes, and c gives latents alone: layout latents"):
        make(NAMES["codec"].model_validate({}), VOCABULARY, alone)
    assert make(options, VOCABULARY, alone).latent_dim == 2
    layout = layout_of("latents")
    with pytest.raises(ValueError, match=r"latents \(4, 3\), and the codec's card says \[T, 2\]"):
        layout.apply(replace(spoken(4), latents=np.zeros((4, 3))))
    row = {"id": "r", "duration_s": 1.0, "words": [], "codec_latents": None}
    with pytest.raises(ValueError, match="row r has no codec_latents, which layout latents needs"):
        layout.example(row, lambda words: [])
    corpus = write_corpus()
    for latent, message in (
        ({"name": "flow", "dim": 7}, "latent.dim is 7, and the layout's latents have 3"),
        ({"name": "gaussian", "codebooks": "x"}, "the layout has latents, and no codes"),
    ):
        with pytest.raises(UserError, match=message):
            train(settings(steps=1, model={"latent": latent}), [corpus], trunk, tmp_path / "x", lambda line: None)
    for name, latent, message in (
        ("codec", "flow", "the flow head no dim"),
        ("taste", "gaussian", "name the tokenizer's"),
    ):
        wrong = settings(steps=1, layout={"name": name}, model={"latent": {"name": latent}})
        cards = CARDS | {"taste": replace(CARDS["taste"], sizes=(16, 16))}
        with pytest.raises(UserError, match=message):
            train(wrong, [write_corpus(name, cards=cards)], trunk, tmp_path / name, lambda line: None)


def test_a_layout_with_latents_has_a_flow_head_unless_told_otherwise(
    write_corpus: Write, trunk: Path, tmp_path: Path
) -> None:
    corpus = write_corpus()
    train(settings(steps=1, model={}, eval_every=0), [corpus], trunk, tmp_path / "out", lambda line: None)
    run = load(tmp_path / "out")
    assert isinstance(run.model.latent_head, FlowHead)
    assert (run.model.latent_head.dim, run.model.latent_head.options) == (3, FlowOptions())
    with pytest.raises(UserError, match="continuous latents have no probability"):
        lay(run, next(Corpus(corpus).rows("heldout")))


def test_a_card_of_latents_is_read_back() -> None:
    latents = Latents("vae", (0.5,), (2.0,), noise=0.625, variance=True)
    card = replace(LAID["codec"], sizes=(), latents=latents)
    assert type(card).from_json(card.as_json()) == card
    assert card.bits_per_s == 0
    assert card.latent_bytes_per_s == 12.5 * 4
