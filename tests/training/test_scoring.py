"""Scores: by hand, the same as the training loss, and right about pairs of which a model has learnt one side."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from tests.training.conftest import CARDS, utterance
from training.checkpoint import Checkpoint, build
from training.evaluate import held_out_losses
from training.layouts import NAMES, CodecLayoutOptions, TasteLayoutOptions, make
from training.layouts.base import LayoutOptions, Sequence
from training.model import load_trunk
from training.options import DepthOptions, ModelOptions, TrainOptions
from training.packing import Piece, collate
from training.scoring import (
    Scoring,
    Stream,
    accuracy,
    choose,
    label_log_probs,
    lay,
    lay_text,
    score_sequences,
    value,
    wilson,
    win,
)
from training.text import load_text

Sequences = Callable[..., list[Sequence]]


def checkpoint(trunk: Path, layout: LayoutOptions) -> Checkpoint:
    options = TrainOptions(layout=layout, trunk_layers=2)  # type: ignore[arg-type]
    text = load_text(trunk)
    laid = make(options.layout, text.vocabulary, CARDS)
    return Checkpoint(build(load_trunk(trunk, 2), laid, options).eval(), text, laid, CARDS, options)


@pytest.fixture(params=[CodecLayoutOptions(), TasteLayoutOptions()], ids=lambda o: o.name)
def fresh(request: pytest.FixtureRequest, trunk: Path) -> Checkpoint:
    torch.set_num_threads(1)
    return checkpoint(trunk, request.param)


def rows(sentences: list[str], numbers: range) -> list[dict[str, object]]:
    made = []
    for i in numbers:
        u = utterance(i, " ".join(sentences[i].split()[:6]), CARDS, "train")
        words = [{"text": w.text, "start_s": w.start_s, "end_s": w.end_s} for w in u.words]
        streams = {"codec_codes": u.codec_codes, "taste_codes": u.taste_codes}
        made.append({"id": str(i), "duration_s": u.duration_s, "words": words} | streams)
    return made


def learn(run: Checkpoint, sequences: list[Sequence], steps: int = 40) -> None:
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-2)
    longest = max(len(s.inputs) for s in sequences)
    batch = collate([[Piece(s, 0, len(s.inputs))] for s in sequences], longest)
    for _ in range(steps):
        loss, _ = run.model.train().loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    run.model.eval()


def test_unrestricted_scores_are_the_training_loss(fresh: Checkpoint, sentences: list[str]) -> None:
    laid = [lay(fresh, row) for row in rows(sentences, range(5))]
    learn(fresh, laid, 3)  # heads of zeros would hide mistakes
    report = held_out_losses(fresh.model, [collate([[Piece(s, 0, len(s.inputs)) for s in laid]], 400)], 0)
    assert report is not None
    scored = score_sequences(fresh, laid, Scoring(specials=True, restrict=False))
    for row in fresh.layout.rows:
        whole = sum((streams[row.name] for streams in scored), Stream())
        parts = [
            report.streams[n] for n in ((row.name, "pad") if row.name == "text" else (row.name,)) if n in report.streams
        ]
        # The text row's loss is of two steps: whether there is a token, for all labels, and which, for tokens.
        assert -whole.total == pytest.approx(sum(part.loss * part.labels for part in parts), rel=1e-4)


def test_restricted_scores_share_one_among_tokens(fresh: Checkpoint, sentences: list[str]) -> None:
    laid = [lay(fresh, row) for row in rows(sentences, range(2))]
    (streams, _) = score_sequences(fresh, laid, Scoring())
    (with_specials, _) = score_sequences(fresh, laid, Scoring(restrict=False, specials=True))
    for row in fresh.layout.rows[1:]:  # heads of zeros predict every id alike
        assert streams[row.name].total == pytest.approx(-streams[row.name].labels * math.log(row.size), rel=1e-5)
        labels = with_specials[row.name].labels
        assert with_specials[row.name].total == pytest.approx(-labels * math.log(row.n_ids), rel=1e-5)
    n_tokens = sum(map(len, fresh.text.encode(w["text"] for w in rows(sentences, range(1))[0]["words"])))  # type: ignore[attr-defined]
    assert streams["text"].labels == n_tokens < with_specials["text"].labels


def test_neither_the_batch_nor_what_is_in_it_changes_a_score(fresh: Checkpoint, sentences: list[str]) -> None:
    laid = [lay(fresh, row) for row in rows(sentences, range(6))]
    learn(fresh, laid, 3)
    together = score_sequences(fresh, [*laid, laid[0]], Scoring())
    assert together[0] == together[-1]  # to the bit
    for i, sequence in enumerate(laid):
        (alone,) = score_sequences(fresh, [sequence], Scoring(), tokens=1)
        for name, stream in alone.items():
            assert stream.labels == together[i][name].labels
            assert stream.total == pytest.approx(together[i][name].total, rel=1e-4, abs=1e-4)


def test_labels_without_loss_have_no_score(fresh: Checkpoint, sentences: list[str]) -> None:
    laid = lay(fresh, rows(sentences, range(1))[0])
    batch = collate([[Piece(laid, 0, len(laid.inputs))]], len(laid.inputs) + 3)
    found = label_log_probs(fresh.model, batch, restrict=True).detach().numpy()
    assert (found[batch.labels < 0] == 0).all()
    assert (found <= 0).all()


@pytest.mark.parametrize("stream", ["text", "speech", "first", "joint"])
@pytest.mark.parametrize("how", ["mean", "sum"])
def test_a_model_that_knows_the_answer(trunk: Path, sentences: list[str], stream: str, how: str) -> None:
    """It has learnt the good sides by heart. The bad ones have the same words, or codes of the same frames, in another order."""
    torch.set_num_threads(1)
    run = checkpoint(trunk, CodecLayoutOptions())
    good = rows(sentences, range(6))
    bad = []
    for row in good:
        words, codes = row["words"], np.asarray(row["codec_codes"])
        other = [w | {"text": v["text"]} for w, v in zip(words, reversed(words), strict=True)]  # type: ignore[call-overload,operator]
        bad.append(row | {"words": other, "codec_codes": (codes[:, ::-1] + 7) % np.array([[32], [16], [16]])})
    learn(run, [lay(run, row) for row in good])
    names = choose(run.layout, [stream])

    def share(ones: list[dict[str, object]], others: list[dict[str, object]]) -> float:
        scored = score_sequences(run, [lay(run, row) for row in [*ones, *others]], Scoring())
        values = [value(streams, names, how) for streams in scored]  # type: ignore[arg-type]
        n = len(ones)
        wins = [win(values[i], values[n + i]) for i in range(n)]  # type: ignore[arg-type]
        return accuracy(wins, [str(i) for i in range(n)]).accuracy

    assert share(good, bad) == 1.0
    assert share(good, good) == 0.5
    assert share(bad, good) == 0.0


def test_text_alone_and_its_continuation(fresh: Checkpoint, sentences: list[str]) -> None:
    """What follows a prompt has the difference of two sums, since the prompt's own score does not depend on it."""
    prompt, ending = sentences[0].split(), sentences[1].split()
    whole, begun = (lay_text(fresh, words, "a") for words in (prompt + ending, prompt))
    first, second = (streams["text"] for streams in score_sequences(fresh, [whole, begun], Scoring()))
    rest = first - second
    assert rest.labels == sum(map(len, fresh.text.encode(ending)))
    inputs = torch.from_numpy(whole.inputs)[None]
    hidden, size = fresh.model.hidden(inputs), fresh.layout.rows[0].size
    scores = fresh.model.text_log_probs(hidden)[0, :, :size].log_softmax(-1)
    targets = whole.inputs[1:, 0]
    tokens = [p for p in range(len(targets)) if 0 <= targets[p] < size][-rest.labels :]
    by_hand = sum(float(scores[p, targets[p]]) for p in tokens)
    assert rest.total == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", sorted(NAMES.keys() - {"latents"}))
def test_every_layout_is_scored_heard_and_read(trunk: Path, sentences: list[str], name: str) -> None:
    """Without words in the text row, the score is of speech; a text alone is scored in any layout that learns text."""
    run = checkpoint(trunk, NAMES[name].model_validate({"name": name}))
    u = utterance(0, sentences[0], CARDS, "train")
    row = {"id": "0", "duration_s": u.duration_s, "words": [], "codec_codes": u.codec_codes, "units": u.units}
    row |= {"unit_run_lengths": u.unit_run_lengths, "taste_codes": np.zeros((0, 2), dtype=np.int64)}
    row |= {"dialogue_id": "d", "turn": 0, "role": "assistant", "channel": 0, "start_s": 0.0, "group_id": "d"}
    texts = [] if run.layout.in_place else [lay_text(run, ["I", "like", "cats."], "t")]
    heard, *read = score_sequences(run, [lay(run, row), *texts], Scoring())
    for found in read:
        assert found["text"].labels == sum(map(len, run.text.encode(["I", "like", "cats."])))
    assert heard["text"].labels == 0
    for stream in heard.values():
        assert math.isfinite(stream.total)
        assert stream.total <= 0
    # No words, no TASTE codes and no turn to answer; and without words no states that LLaMA-Omni's units could be read off.
    if name not in ("text", "taste", "speechgpt", "llama-omni"):
        assert sum(stream.labels for stream in heard.values()) > 0


@pytest.mark.parametrize("kind", ["moshi", "csm"])
def test_rows_of_a_depth_transformer_are_scored(trunk: Path, sentences: list[str], kind: str) -> None:
    options = TrainOptions(
        layout=CodecLayoutOptions(), model=ModelOptions(depth=DepthOptions(kind=kind, width=32, layers=1))
    )  # type: ignore[arg-type]
    text = load_text(trunk)
    layout = make(options.layout, text.vocabulary, CARDS)
    run = Checkpoint(build(load_trunk(trunk, 2), layout, options).eval(), text, layout, CARDS, options)
    assert run.model.depth
    laid = [lay(run, row) for row in rows(sentences, range(3))]
    batch = collate([[Piece(s, 0, len(s.inputs))] for s in laid], max(len(s.inputs) for s in laid))
    with torch.no_grad():
        losses = run.model.label_losses(batch).losses
    for i, streams in enumerate(score_sequences(run, laid, Scoring(restrict=False, specials=True))):
        for r, row in enumerate(layout.rows):
            assert -streams[row.name].total == pytest.approx(float(losses[i, :, r].sum()), rel=1e-4)


def test_streams_by_name_and_by_group(trunk: Path) -> None:
    layout = checkpoint(trunk, CodecLayoutOptions()).layout
    assert choose(layout, ["speech"]) == ("codec_0", "codec_1", "codec_2")
    assert choose(layout, ["first"]) == ("codec_0",)
    assert choose(layout, ["codec_2", "text"]) == ("text", "codec_2")
    assert choose(layout, ["joint"]) == tuple(row.name for row in layout.rows)
    with pytest.raises(UserError, match="no codec_9; layout codec has text, codec_0"):
        choose(layout, ["codec_9"])
    layout.rows = layout.rows[:1]  # a text layout's
    with pytest.raises(UserError, match="no speech; layout codec has text,"):
        choose(layout, ["speech"])
    assert value({"text": Stream()}, ["text"], "mean") is None
    assert value({"a": Stream(-4.0, 2), "b": Stream(-2.0, 1)}, ["a", "b"], "mean") == -2.0
    assert value({"a": Stream(-4.0, 2), "b": Stream(-2.0, 1)}, ["a", "b"], "sum") == -6.0


def test_pairs_of_one_item_are_averaged_first() -> None:
    found = accuracy([1, 1, 1, 0, 0.5], ["a", "a", "a", "b", "c"])
    assert (found.accuracy, found.items, found.pairs, found.ties) == (0.5, 3, 5, 1)


def test_wilson_as_published() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


@given(st.floats(0, 1), st.integers(1, 5000))
def test_an_interval_holds_its_share(share: float, n: int) -> None:
    low, high = wilson(share, n)
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1


def test_units_read_off_by_ctc_are_scored(trunk: Path, sentences: list[str]) -> None:
    """As their training loss has it, whatever the batch; and sequences that differ in their units alone are two."""
    run = checkpoint(trunk, NAMES["llama-omni"].model_validate({"name": "llama-omni", "upsample": 30}))
    torch.nn.init.normal_(run.model.speech_head.weight, generator=torch.Generator().manual_seed(0))
    laid = []
    for i in range(4):
        u = utterance(i, sentences[i], CARDS, "train")
        words = [{"text": w.text, "start_s": w.start_s, "end_s": w.end_s} for w in u.words]
        row = {"id": str(i), "duration_s": u.duration_s, "words": words}
        laid.append(lay(run, row | {"units": u.units, "unit_run_lengths": u.unit_run_lengths}))
    other = replace(laid[0], ctc_targets=laid[0].ctc_targets[::-1].copy())
    found = score_sequences(run, [*laid, other], Scoring(), tokens=64)
    for sequence, streams in zip([*laid, other], found, strict=True):
        alone = run.model.label_losses(collate([[Piece(sequence, 0, len(sequence.inputs))]], len(sequence.inputs)))
        assert streams["units"].labels == len(sequence.ctc_targets)
        assert streams["units"].total == pytest.approx(-float(alone.ctc), rel=1e-4)
    assert found[0]["text"] == found[-1]["text"]
    assert found[0]["units"].total != found[-1]["units"].total
    assert score_sequences(run, [other], Scoring(restrict=False))[0]["units"].total == pytest.approx(
        found[-1]["units"].total, rel=1e-4
    )
