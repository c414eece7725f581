"""Layouts on merged units: what holds for every layout of units holds on merges too, and units come back."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.speak import speak
from schemas.errors import UserError
from tests.training.laid import CARDS, VOCABULARY, examples, layout_of, sample
from training.bpe import fit
from training.checkpoint import load
from training.evaluate import evaluate, table
from training.generate import generate
from training.layouts import NAMES, Layout, UnitLayoutOptions, make
from training.layouts.base import IGNORE
from training.layouts.merged import MergedLayout
from training.options import TrainOptions
from training.reader import Corpus
from training.scoring import Scoring, lay, score_sequences
from training.train import train

UNIT_LAYOUTS = [name for name, options in NAMES.items() if issubclass(options, UnitLayoutOptions)]
SILENT = ("text", "llama-omni")
"""Layouts whose inputs hold no units."""


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], str]:
    """The path of merges of 30 units, without repeats or one a frame, that stop at the ends of words."""
    folder = tmp_path_factory.mktemp("merges")
    random = np.random.default_rng(0)
    steps = [np.cumsum(random.integers(1, 4, 40)) % 30 for _ in range(200)]
    said = [(units, random.integers(1, 5, len(units)), list(range(0, 40, 8))) for units in steps]
    for once in (True, False):
        made = fit(said, 30, 150, inside_words=True, deduplicate=once, revision=CARDS["units"].revision)
        made.save(folder / f"{once}.json")
    return lambda once: str(folder / f"{once}.json")


def both(name: str, merges: Callable[[bool], str], once: bool) -> tuple[Layout, MergedLayout]:
    """A layout on units and on merged ones."""
    plain = layout_of(name, deduplicate=once)
    found = layout_of(name, deduplicate=once, bpe=merges(once))
    assert isinstance(found, MergedLayout)
    return plain, found


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("name", UNIT_LAYOUTS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_units_come_back_as_from_the_layout_without_merges(
    name: str, once: bool, merges: Callable[[bool], str], data: st.DataObject
) -> None:
    plain, layout = both(name, merges, once)
    example = data.draw(examples(plain))
    laid, kept, found = layout.apply(example), layout.kept(example), layout.undo(layout.apply(example).inputs)
    np.testing.assert_array_equal(found.units, kept.units)
    assert found.words == kept.words
    if name != "cosyvoice2":  # which takes rows with few units for each word in another order, and so may count them
        assert kept.words == plain.kept(example).words
        np.testing.assert_array_equal(kept.units, plain.kept(example).units)
        assert len(laid.inputs) <= len(plain.apply(example).inputs)
    # Where one unit a frame is merged, how long each lasts comes back too.
    if not once and len(found.units) and name in ("units", "text-speech", "glm-4-voice"):
        lengths = layout.bpe.runs(laid.inputs[:, 1][(laid.inputs[:, 1] >= 0) & (laid.inputs[:, 1] < layout.bpe.size)])
        np.testing.assert_array_equal(lengths.units, example.units)
        np.testing.assert_array_equal(lengths.run_lengths, example.run_lengths)
    assert [row.size for row in layout.rows] == [VOCABULARY.size, layout.bpe.size]
    assert (laid.inputs < [row.n_ids for row in layout.rows]).all()
    learnt = laid.labels != IGNORE
    np.testing.assert_array_equal(laid.labels[:-1][learnt[:-1]], laid.inputs[1:][learnt[:-1]])
    # How long tokens last sums up to the whole.
    assert layout.merge(example).run_lengths.sum() == example.run_lengths.sum()


@pytest.mark.parametrize("name", UNIT_LAYOUTS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_what_is_sampled_is_units(name: str, merges: Callable[[bool], str], data: st.DataObject) -> None:
    once = data.draw(st.booleans())
    plain, layout = both(name, merges, once)
    heard = data.draw(examples(plain))
    try:
        inputs = sample(layout, heard, data.draw(st.integers(0, 99)))
    except UserError as error:
        assert name in str(error)  # noqa: PT017
        return
    said = layout.undo(inputs)
    assert not len(said.units) or 0 <= said.units.min() <= said.units.max() < 30
    if name not in ("spirit-lm", "sims", "speechgpt", *SILENT):
        np.testing.assert_array_equal(said.units[: len(plain.kept(heard).units)], plain.kept(heard).units)


def test_a_model_says_about_as_much_as_it_is_asked_for(merges: Callable[[bool], str]) -> None:
    plain, layout = both("units", merges, False)
    nothing = next(
        iter(
            [
                plain.example(
                    {
                        "id": "",
                        "words": [],
                        "duration_s": 0,
                        "units": np.zeros(0, int),
                        "unit_run_lengths": np.zeros(0, int),
                    },
                    lambda words: [],
                )
            ]
        )
    )
    most = []
    for one in (plain, layout):
        prompt, columns = one.prompt(nothing, 4.0), 0
        while prompt.next(lambda row, allowed: 0) is not None:
            columns += 1
        most.append(columns - 2)
    assert most == [100, round(100 / layout.bpe.frames_per_token)]
    assert most[1] < 80


def test_merges_that_do_not_fit_are_refused_with_how_to_fit_them(merges: Callable[[bool], str], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"merges units without repeats, and layout units has deduplicate: false.*=false"
    ):
        layout_of("units", deduplicate=False, bpe=merges(True))
    with pytest.raises(UserError, match=r"merges units one a frame, and layout units has deduplicate: true.*=true"):
        layout_of("units", bpe=merges(False))
    fit([], 30, 30, inside_words=False, revision="r").save(tmp_path / "free.json")
    fit([], 30, 30, inside_words=True, revision="other").save(tmp_path / "other.json")
    for name in ("spirit-lm", "sims", "spectron"):
        with pytest.raises(UserError, match=rf"layout {name} switches between words: .*inside_words=true"):
            layout_of(name, bpe=str(tmp_path / "free.json"))
    assert layout_of("text-speech", bpe=str(tmp_path / "free.json")).rows[1].size == 30
    with pytest.raises(UserError, match=r"30 units of revision other, and the corpus has 30 of u revision r: fit it"):
        layout_of("units", bpe=str(tmp_path / "other.json"))
    with pytest.raises(UserError, match=r"none\.json: not a file"):
        layout_of("units", bpe=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="needs the units stream"):
        make(NAMES["units"].model_validate({"bpe": merges(True)}), VOCABULARY, {})


@pytest.mark.parametrize("name", ["units", "spirit-lm", "glm-4-voice", "llama-omni"])
def test_trained_saved_scored_and_sampled_from(
    name: str, write_corpus: Callable[..., Path], trunk: Path, tmp_path: Path
) -> None:
    """The whole loop on a corpus; a checkpoint goes on without the file of merges, and not with another."""
    corpus = write_corpus(n_train=6, n_heldout=2)
    once = name != "glm-4-voice"
    path = tmp_path / "bpe.json"
    rows = list(Corpus(corpus).rows("train", ("units", "unit_run_lengths")))
    said = [(row["units"], row["unit_run_lengths"], [3, 6, 9]) for row in rows]
    fit(said, 24, 60, inside_words=True, deduplicate=once, revision="5ea").save(path)
    layout = {"name": name, "bpe": str(path), "deduplicate": once}
    small = {"warmup": 1, "seq_len": 128, "batch_tokens": 128, "trunk_layers": 1, "eval_every": 3, "lr": 1e-2}
    options = TrainOptions.model_validate({"layout": layout, "steps": 3, **small})
    result = train(options, [corpus], trunk, tmp_path / "out", lambda line: None)
    assert result.after is not None
    assert "units" in result.after["streams"]

    content = path.read_bytes()
    path.unlink()
    run = load(tmp_path / "out")
    assert isinstance(run.layout, MergedLayout)
    assert run.layout.rows[1].size == 60
    row = next(Corpus(corpus).rows("heldout", run.layout.columns))
    generated = generate(run, "yes" if name in ("llama-omni", "glm-4-voice") else "", prefix=row, max_s=3.0)
    assert len(generated.units)
    assert generated.units.max() < 24
    report = evaluate(tmp_path / "out", corpus)
    assert report.streams["units"].loss == pytest.approx(result.after["streams"]["units"]["loss"])
    assert "nats/s" in table(report)
    (streams,) = score_sequences(run, [lay(run, row)], Scoring(specials=True))
    if name == "units":
        example = run.layout.merge(run.layout.example(row, run.text.encode))
        assert streams["units"].labels == len(example.units) + 1
    if name != "llama-omni":
        assert np.isfinite(streams["units"].total)
        assert streams["units"].total < 0

    more = options.model_copy(update={"steps": 4})
    assert train(more, [corpus], trunk, tmp_path / "out", lambda line: None).step == 4
    path.write_bytes(content)
    moved = options.layout.model_copy(update={"bpe": str(path.rename(tmp_path / "moved.json"))})
    again = more.model_copy(update={"steps": 5, "layout": moved})
    assert train(again, [corpus], trunk, tmp_path / "out", lambda line: None).step == 5
    fit(said, 24, 50, inside_words=True, deduplicate=once, revision="5ea").save(tmp_path / "moved.json")
    with pytest.raises(UserError, match=r"moved\.json is not the file of merges that the checkpoint was trained with"):
        train(again.model_copy(update={"steps": 6}), [corpus], trunk, tmp_path / "out", lambda line: None)

    spoken = speak(tmp_path / "out", "yes" if name == "glm-4-voice" else "", tmp_path / "said.json", max_s=2.0)
    said_units = json.loads((tmp_path / "said.json").read_text())
    assert said_units["tokenizer"]["revision"] == "5ea"
    assert f"{len(said_units['units'])} units" in str(spoken)
    assert all(0 <= unit < 24 for unit in said_units["units"])
    with pytest.raises(UserError, match=r"write units to an --out that ends in \.json"):
        speak(tmp_path / "out", "", tmp_path / "said.wav")

    folder = load(tmp_path / "out").path
    assert folder is not None
    damaged = (folder / "units-bpe.json").read_text()
    (folder / "units-bpe.json").write_text(damaged.replace('"frames_per_token": ', '"frames_per_token": 1'))
    with pytest.raises(UserError, match=r"units-bpe\.json: not the merges that the model was trained on"):
        load(tmp_path / "out")
