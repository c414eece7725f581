"""What holds for every layout that there is, for any example."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Tokenizer
from schemas.errors import UserError
from tests.training.laid import CARDS, VOCABULARY, V, examples, layout_of, sample, speech_ids, words
from training.layouts import LAYOUTS, NAMES, Example, Layout, Vocabulary, make
from training.layouts.base import BOTH, IGNORE, NOTHING, SPEECH, TEXT

every_layout = pytest.mark.parametrize("name", NAMES)


@every_layout
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_layout_can_be_undone_and_leaks_nothing(name: str, data: st.DataObject) -> None:
    layout = layout_of(name)
    example = data.draw(examples(layout))
    laid = layout.apply(example)
    kept, found = layout.kept(example), layout.undo(laid.inputs)
    assert found.words == kept.words
    np.testing.assert_array_equal(found.codes, kept.codes)
    np.testing.assert_array_equal(found.units, kept.units)
    learnt = laid.labels != IGNORE
    if layout.in_place:
        # A label's own row holds nothing at its position.
        assert (laid.inputs[learnt] == NOTHING).all()
    else:
        # A label is the id that its row has at the next position.
        assert not learnt[-1].any()
        np.testing.assert_array_equal(laid.labels[:-1][learnt[:-1]], laid.inputs[1:][learnt[:-1]])
    assert (laid.labels[learnt] >= 0).all()
    assert (laid.weights[~learnt] == 0).all()
    # No id is learnt twice, and none is in the sequence that is not in the example.
    n_text, n_speech = sum(map(len, kept.words)), speech_ids(layout, example)
    sizes = np.array([row.size for row in layout.rows])
    tokens = (laid.inputs >= 0) & (laid.inputs < sizes)
    is_token = learnt & (laid.labels < sizes)
    n_times = len(laid.bounds)  # an example in several documents is in each of them
    assert tokens[:, 0].sum() == n_times * n_text >= is_token[:, 0].sum()
    if not getattr(layout.options, "fill_forward", False) and n_times == 1:
        assert tokens[:, 1:].sum() == n_speech
    assert is_token[:, 1:].sum() <= n_speech
    # Every position holds something, in the range of its row, and says in which rows.
    assert (laid.inputs < [row.n_ids for row in layout.rows]).all()
    there = laid.inputs != NOTHING
    assert there.any(axis=1).all()
    modality = np.where(there[:, 0], np.where(there[:, 1:].any(1), BOTH, TEXT), SPEECH)
    np.testing.assert_array_equal(laid.modality, modality)
    assert laid.inputs.dtype == laid.labels.dtype == np.int64
    assert (laid.weights.dtype, laid.modality.dtype) == (np.float32, np.int8)
    # Pure: the same again, and the same after other examples.
    again = layout_of(name).apply(example)
    np.testing.assert_array_equal(again.inputs, laid.inputs)
    np.testing.assert_array_equal(again.labels, laid.labels)


LEARN_ALL = (
    "codec",
    "taste",
    "text",
    "units",
    "text-speech",
    "glm-4-voice",
    "step-audio",
    "mini-omni",
    "kimi-audio",
    "speechgpt2",
)


@pytest.mark.parametrize(
    "name", [*LEARN_ALL, "delay", "parallel", "acoustic-delay", "flatten", "coarse-first", "spirit-lm"]
)
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_what_is_learnt_is_learnt_once(name: str, data: st.DataObject) -> None:
    """Each text token and each code, in layouts that give none away: tails as well, and each in the row that says it."""
    layout = layout_of(name)
    example = data.draw(examples(layout))
    laid, kept = layout.apply(example), layout.kept(example)
    for r, row in enumerate(layout.rows):
        labels = laid.labels[:, r]
        inputs = laid.inputs[:, r]
        if name == "taste" and r:
            continue  # its inputs repeat a word's codes
        np.testing.assert_array_equal(
            labels[(labels >= 0) & (labels < row.size)], inputs[(inputs >= 0) & (inputs < row.size)]
        )
    assert ((laid.labels[:, 0] >= 0) & (laid.labels[:, 0] < V)).sum() == sum(map(len, kept.words))


def distinct(layout: Layout) -> Example:
    """Five words, ten units and ten codec frames, in which no id comes twice in a row; two turns where it is a dialogue."""

    def part(at: int, role: str) -> Example:
        said = [[2 * at + 2 * w, 1 + 2 * at + 2 * w] for w in range(5)]
        starts_s = np.arange(5) * 0.16
        codes = at + np.arange(5 if layout.kind == "taste" else 10)[None] + np.array([[0], [20], [40]])
        codes = codes[:2].T if layout.kind == "taste" else codes
        if layout.name == "moshi":
            codes = np.concatenate([codes, codes + 40])
        units, ones = at + np.arange(10), np.full(10, 2)
        return Example(said, starts_s, codes, f"id{at}", 0.8, starts_s + 0.16, units, ones, role)

    example = part(0, "user")
    example.turns = [part(0, "user"), part(20, "assistant")]
    return example


@every_layout
def test_nothing_is_given_away_before_it_is_learnt(name: str) -> None:
    """With ids that occur once, none stands in its row's inputs at the position that learns it, or before."""
    large = {k: replace(card, sizes=(200,) * len(card.sizes)) for k, card in CARDS.items()}
    vocabulary = Vocabulary(100, np.arange(100) % 2 == 0, np.arange(100) % 2 == 1)
    layout = layout_of(name, large, vocabulary)
    example = distinct(layout)
    example.run_lengths = np.ones(10, dtype=np.int64)
    laid = layout.apply(example)
    found = 0
    for position, row in np.argwhere((laid.labels != IGNORE) & (laid.labels < [r.size for r in layout.rows])):
        assert laid.labels[position, row] not in laid.inputs[: position + 1, row]
        found += 1
    assert found >= 5


@every_layout
def test_what_comes_last_does_not_change_what_comes_first(name: str) -> None:
    """Other ids at the end of the words, codes and units change no position before the first of them, and no label there."""
    large = {k: replace(card, sizes=(200,) * len(card.sizes)) for k, card in CARDS.items()}
    vocabulary = Vocabulary(100, np.arange(100) % 2 == 0, np.arange(100) % 2 == 1)
    layout = layout_of(name, large, vocabulary)
    one, other = distinct(layout), distinct(layout)
    for part in (other, *other.turns[-1:]):
        part.words = [*part.words[:-1], [98, 99]]
        part.codes = part.codes.copy()
        part.codes[(-1,) if layout.kind == "taste" else (slice(None), -1)] += 100
        part.units = np.concatenate([part.units[:-1], [150]])
    a, b = layout.apply(one), layout.apply(other)
    assert len(a.inputs) == len(b.inputs)
    changed = np.flatnonzero((a.inputs != b.inputs).any(axis=1))
    first = changed[0]
    values = [98, 99, *(other.codes[-1] if layout.kind == "taste" else other.codes[:, -1]), 150, *range(100, 200)]
    assert all(i in values for i in b.inputs[first][a.inputs[first] != b.inputs[first]])
    np.testing.assert_array_equal(a.labels[: first - 1], b.labels[: first - 1])


STREAMING = (
    "units",
    "codec",
    "delay",
    "parallel",
    "acoustic-delay",
    "flatten",
    "step-audio",
    "mini-omni",
    "kimi-audio",
)


@pytest.mark.parametrize("name", [*STREAMING, "glm-4-voice", "llama-omni2", "speechgpt2", "csm", "moshi"])
def test_more_speech_changes_nothing_that_was_before(name: str) -> None:
    """The beginning of an utterance is laid out as it would be if the utterance ended there, up to that end."""
    layout = layout_of(name, {k: replace(card, sizes=(200,) * len(card.sizes)) for k, card in CARDS.items()})
    whole = distinct(layout)
    whole.words, whole.turns = [[1, 13], [2], [3], [4], [5]], []
    part = replace(whole, codes=whole.codes[:, :6], units=whole.units[:6], run_lengths=whole.run_lengths[:6])
    if name in ("codec", "moshi"):
        part = replace(part, words=whole.words[:3], starts_s=whole.starts_s[:3])
    a, b = layout.apply(whole).inputs, layout.apply(part).inputs
    same = (a[: len(b)] == b[: len(a)]).all(axis=1)
    n_same = len(same) if same.all() else int(np.flatnonzero(~same)[0])
    held = b[:n_same, 1:]
    specials = [row.size for row in layout.rows[1:]]
    n_codes = ((held >= 0) & (held < specials)).sum(axis=0)
    # All rows up to where the first of them ends, later rows as far behind as they are late.
    assert n_codes.max() >= (
        12 if name in ("kimi-audio", "glm-4-voice", "llama-omni2") else 2 if name == "speechgpt2" else 5
    )


@every_layout
def test_a_corpus_without_the_stream_is_refused_with_the_stage_to_run(name: str) -> None:
    options = NAMES[name].model_validate({"name": name})
    layout = layout_of(name)
    for kind in layout.kinds:
        without = {k: card for k, card in CARDS.items() if k != kind}
        with pytest.raises(UserError, match=rf"layout {name} needs the {kind} stream, .*section `{kind}`"):
            make(options, VOCABULARY, without)
    assert make(options, VOCABULARY, CARDS).name == name
    if not layout.kinds:
        make(options, VOCABULARY, {})


EXACT = (
    *("text", "units", "text-speech", "llama-omni", "glm-4-voice", "llama-omni2", "cosyvoice2", "step-audio"),
    *("mini-omni", "kimi-audio", "speechgpt2", "csm", "delay", "parallel", "acoustic-delay"),
    *("flatten", "coarse-first", "vall-e", "audiolm-fine", "audiolm-coarse"),
)


@every_layout
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_what_is_sampled_can_be_read_and_begins_as_it_was_told(name: str, data: st.DataObject) -> None:
    """From an utterance to go on from and new words, each there or not, as far as the layout takes them."""
    layout = layout_of(name)
    silent = data.draw(st.booleans())
    heard = data.draw(examples(layout))
    new = data.draw(examples(layout)).words if data.draw(st.booleans()) else []
    given_words = new if silent else heard.words + new
    nothing = np.zeros(0, dtype=np.int64)
    codes = layout.no_codes() if silent else heard.codes
    starts_s = np.concatenate([np.zeros(0) if silent else heard.starts_s, np.full(len(new), np.inf)])
    ends_s = np.concatenate([np.zeros(0) if silent else heard.ends_s, np.full(len(new), np.inf)])
    units, lengths = (nothing, nothing) if silent else (heard.units, heard.run_lengths)
    prompt = Example(given_words, starts_s, codes, "p", 1.0, ends_s, units, lengths)
    try:
        inputs = sample(layout, prompt, data.draw(st.integers(0, 99)))
    except UserError as error:
        # What a layout cannot do it says, by its name.
        assert name in str(error)  # noqa: PT017
        return
    said = layout.undo(inputs)
    assert all(0 <= token < V - 1 for word in said.words for token in word)
    expected = layout.kept(replace(prompt, id=prompt.id))
    if name not in ("codec", "moshi", "taste"):  # which may run out of time, and have tests of their own
        if name not in ("spirit-lm", "sims", "speechgpt"):
            assert said.words[: len(expected.words)] == expected.words or not expected.words
        if name not in ("spirit-lm", "sims", "speechgpt", "speechgpt2", "audiolm-fine"):
            np.testing.assert_array_equal(said.codes[:, : expected.codes.shape[1]], expected.codes)
            np.testing.assert_array_equal(said.units[: len(expected.units)], expected.units)
    if name in EXACT and not (name in ("csm", "text-speech") and not silent):
        again = Example(
            said.words,
            np.arange(len(said.words)) * 10.0,
            said.codes,
            "p",
            1.0,
            np.arange(len(said.words)) * 10.0 + 5,
            said.units,
            np.ones(len(said.units), dtype=np.int64),
        )
        whole = getattr(layout.options, "text_chunk", None)
        laid = layout.apply(again) if whole is None else layout.lay_out(again, whole)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(laid.inputs, inputs)


@every_layout
@settings(deadline=None, max_examples=10)
@given(said=words)
def test_a_text_alone_fits_into_the_rows_of_every_layout(name: str, said: list[list[int]]) -> None:
    layout = layout_of(name)
    if layout.in_place:
        with pytest.raises(UserError, match=f"layout {name} learns no text"):
            layout.text_only(said, "t")
        return
    laid = layout.text_only(said, "t")
    tokens = [token for word in said for token in word]
    assert laid.labels[:-1, 0].tolist() == [*tokens, layout.rows[0].special(layout.text_marks[1])]
    assert (laid.inputs[:, 1:] == NOTHING).all()
    assert (laid.labels[:, 1:] == IGNORE).all()
    assert (laid.modality == TEXT).all()
    found = layout.undo(laid.inputs)
    assert found.words == ([] if name == "taste" or (name.startswith(("step", "audiolm-c"))) else said)
    assert found.codes.size == found.units.size == 0


def test_unknown_cards_do_not_matter() -> None:
    """A layout takes only the cards it needs, and no layout draws on another's."""
    more: dict[str, Tokenizer] = CARDS | {"other": CARDS["units"]}
    for name in NAMES:
        layout = layout_of(name, more)
        assert set(layout.cards) == set(layout.kinds)


def test_the_page_of_layouts_draws_each_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "layouts.md").read_text()
    assert [line[4:] for line in page.splitlines() if line.startswith("### ")] == [
        name for own in LAYOUTS for name, options in NAMES.items() if options is own
    ]
