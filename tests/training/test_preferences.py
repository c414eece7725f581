"""DPO: the loss and its gradient by hand, masks that leave the prompt out, and a model that comes to prefer the chosen side."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UserError
from tests.training.test_scoring import checkpoint, learn, rows
from training.checkpoint import Checkpoint, load, save
from training.dpo import options_for
from training.generate import Sampling, generate
from training.layouts import CodecLayoutOptions, TasteLayoutOptions
from training.layouts.base import IGNORE
from training.loader import Position
from training.preferences import (
    PairBatch,
    PairLoader,
    PairLosses,
    Preference,
    dpo,
    log_probs,
    pair_batch,
    read_preferences,
    reference_log_probs,
    response,
)
from training.scoring import lay
from training.train import train

FLOATS = st.floats(-50, 50)


@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS, FLOATS), min_size=1, max_size=4), st.floats(0.01, 1.0))
@settings(deadline=None)
def test_loss_and_gradient_are_the_formulas(numbers: list[tuple[float, float, float, float]], beta: float) -> None:
    """Of one pair: loss -log s(m), d loss / d log p(chosen) = -beta s(-m), and the opposite for the rejected one."""
    policy = torch.tensor([n[:2] for n in numbers], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([n[2:] for n in numbers], dtype=torch.float64)
    terms = dpo(policy, reference, beta)
    terms.loss.backward()
    margins = [beta * ((n[0] - n[2]) - (n[1] - n[3])) for n in numbers]
    assert float(terms.loss.detach()) == pytest.approx(
        np.mean([math.log1p(math.exp(-m)) for m in margins]), rel=1e-9, abs=1e-12
    )
    assert policy.grad is not None
    for grad, m in zip(policy.grad, margins, strict=True):
        by_hand = beta / (1 + math.exp(m)) / len(numbers)
        assert grad.tolist() == pytest.approx([-by_hand, by_hand], rel=1e-9, abs=1e-15)
    assert terms.by_pair()["margin"].tolist() == pytest.approx(margins, rel=1e-9, abs=1e-9)


def test_a_model_that_has_not_moved_has_loss_log_2() -> None:
    same = torch.tensor([[-10.0, -20.0]])
    assert float(dpo(same, same, 0.1).loss) == pytest.approx(math.log(2))


@pytest.fixture(params=[CodecLayoutOptions(), TasteLayoutOptions()], ids=lambda o: o.name)
def run(request: pytest.FixtureRequest, trunk: Path, sentences: list[str]) -> Checkpoint:
    made = checkpoint(trunk, request.param)
    learn(made, [lay(made, row) for row in rows(sentences, range(4))], 5)
    return made


def sampled(run: Checkpoint, sentences: list[str], n: int = 4) -> list[Preference]:
    """Two continuations each of the beginnings of n utterances."""
    pairs = []
    for row in rows(sentences, range(n)):
        words = row["words"][:3]  # type: ignore[index]
        prompt = row | {"words": words, "taste_codes": np.asarray(row["taste_codes"])[:3], "duration_s": 1.1}
        prompt["codec_codes"] = np.asarray(row["codec_codes"])[:, :27]
        sides = [generate(run, prefix=prompt, max_s=2.0, sampling=Sampling(1.0, seed=seed)) for seed in (1, 2)]
        pairs.append(Preference(str(row["id"]), *(response(side.inputs, side.drawn, str(row["id"])) for side in sides)))
    return pairs


def test_masks_leave_out_the_prompt_and_what_was_not_drawn(run: Checkpoint, sentences: list[str]) -> None:
    for pair in sampled(run, sentences):
        chosen, rejected = pair.chosen, pair.rejected
        n = min(len(chosen.inputs), len(rejected.inputs))
        same = (chosen.inputs[:n] == rejected.inputs[:n]).all(axis=1)
        begun = int(np.argmin(same)) if not same.all() else n
        assert begun >= 3  # they share the prompt
        for side in (chosen, rejected):
            first = int(np.flatnonzero((side.labels != IGNORE).any(axis=1))[0])
            # No label before the last position of the prompt, and its ids are not among the labels.
            assert first >= 2
            there = side.labels[:-1] != IGNORE
            assert (side.labels[:-1][there] == side.inputs[1:][there]).all()
            assert there[:, 0].any()
            assert (side.labels[-1] == IGNORE).all()


def test_the_prompt_has_no_gradient_of_its_own(run: Checkpoint, sentences: list[str]) -> None:
    """Log-probabilities are those of drawn ids: by hand from the heads, position by position."""
    (pair, *_) = sampled(run, sentences, 1)
    batch = pair_batch([pair], np.zeros((1, 2)))
    found = log_probs(run.model, batch)[0]
    for side, total in zip((pair.chosen, pair.rejected), found, strict=True):
        hidden = run.model.hidden(torch.from_numpy(side.inputs)[None])[0]
        scores = [run.model.text_log_probs(hidden), *(x.log_softmax(-1) for x in run.model.speech_logits(hidden))]
        there = np.argwhere(side.labels != IGNORE)
        by_hand = sum(float(scores[r][p, side.labels[p, r]]) for p, r in there)
        assert float(total) == pytest.approx(by_hand, rel=1e-4)


def test_dpo_raises_the_chosen_sides_margin(run: Checkpoint, sentences: list[str]) -> None:
    pairs = sampled(run, sentences)
    reference = reference_log_probs(run.model, pairs)
    loader = PairLoader(pairs, reference, pairs_per_batch=2, seed=0)
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-3)
    seen = []
    for _, (batch, _) in zip(range(30), loader.train(Position()), strict=False):
        loss, streams = run.model.train().loss(batch)  # the model's own loss: a batch of pairs brings what it is
        seen.append((float(loss.detach()), streams.means()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert seen[0][0] == pytest.approx(math.log(2), abs=1e-3)
    assert seen[0][1]["margin"] == pytest.approx(0.0, abs=1e-3)
    assert seen[-1][0] < 0.3
    assert seen[-1][1]["accuracy"] == 1.0
    after = reference_log_probs(run.model, pairs) - reference
    assert (after[:, 0] > after[:, 1]).all()


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_of_a_batch_have_its_loss_and_gradient(run: Checkpoint, sentences: list[str], parts: int) -> None:
    """However many processes or steps of accumulation share a batch, pairs stay together and count once."""
    pairs = sampled(run, sentences)
    batch = pair_batch(pairs, reference_log_probs(run.model, pairs) - np.array([[3.0, -2.0]]))
    parameter = run.model.speech_head.weight

    def gradient(batches: list[PairBatch]) -> tuple[float, dict[str, float], torch.Tensor]:
        run.model.zero_grad()
        total, seen = 0.0, PairLosses()
        for one in batches:
            loss, streams = run.model.loss(one)
            loss.backward()
            total += float(loss.detach())
            seen.update(streams)
        assert parameter.grad is not None
        return total, seen.means(), parameter.grad.clone()

    loss, streams, grad = gradient([batch])
    shared = [batch.share(part, parts) for part in range(parts)]
    assert len({one.inputs.shape for one in shared}) == 1
    loss_of_parts, streams_of_parts, grad_of_parts = gradient(shared)
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert streams_of_parts == pytest.approx(streams, rel=1e-4)
    assert torch.allclose(grad, grad_of_parts, rtol=1e-3, atol=1e-6)


def test_the_order_depends_on_seed_and_position_alone(run: Checkpoint, sentences: list[str]) -> None:
    pairs = sampled(run, sentences, 5)
    reference = np.arange(10.0).reshape(5, 2)

    def ids(loader: PairLoader, position: Position, n: int) -> list[tuple[list[str], Position]]:
        return [(batch.ids, after) for _, (batch, after) in zip(range(n), loader.train(position), strict=False)]

    one, other = (PairLoader(pairs, reference, 2, seed=s) for s in (0, 1))
    first = ids(one, Position(), 7)
    assert ids(one, first[2][1], 4) == first[3:]
    assert ids(other, Position(), 7) != first
    for epoch in (first[:3], first[3:6]):
        seen = [name for names, _ in epoch for name in names[::2]]
        assert sorted(seen) == sorted(pair.id for pair in pairs)
    (batch, _) = next(one.train(Position()))
    assert [reference.tolist().index(row.tolist()) for row in batch.reference] == [int(n) for n in batch.ids[::2]]

    half = PairLoader(pairs, reference, 2, seed=0, heldout_share=0.5)
    kept_out = {name for b in half.heldout() for name in b.ids}
    trained = {name for names, _ in ids(half, Position(), 6) for name in names}
    assert kept_out
    assert not kept_out & trained
    with pytest.raises(UserError, match="all of 5 pairs are held out"):
        PairLoader(pairs, reference, 2, seed=0, heldout_share=1.0)


def test_preferences_of_another_layout_are_refused(run: Checkpoint, sentences: list[str], tmp_path: Path) -> None:
    (pair,) = sampled(run, sentences, 1)
    sides = [
        {"inputs": side.inputs.tolist(), "drawn": np.pad(side.labels[:-1] != IGNORE, ((1, 0), (0, 0))).tolist()}
        for side in (pair.chosen, pair.rejected)
    ]
    row = {"prompt": {"id": pair.id}, "chosen": sides[0], "rejected": sides[1]}
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    (read,) = read_preferences(path, run.layout)
    for side in ("chosen", "rejected"):
        assert np.array_equal(getattr(read, side).labels, getattr(pair, side).labels)
    other = replace(run.layout.rows[1], size=2)
    layout = type(run.layout)(run.layout.options, run.layout.vocabulary, run.layout.cards)
    layout.rows = (layout.rows[0], other, *layout.rows[2:])
    with pytest.raises(UserError, match=f"pair {pair.id} is no sequence of layout"):
        read_preferences(path, layout)
    pq.write_table(pa.Table.from_pylist([row]).slice(0, 0), path)
    with pytest.raises(UserError, match="no pair in here"):
        read_preferences(path, run.layout)


def stored(run: Checkpoint, pairs: list[Preference], folder: Path) -> tuple[Path, Path]:
    """A policy and its preferences, as files."""
    sides = [
        {
            side: {
                "inputs": getattr(pair, side).inputs.tolist(),
                "drawn": np.pad(getattr(pair, side).labels[:-1] != IGNORE, ((1, 0), (0, 0))).tolist(),
            }
            for side in ("chosen", "rejected")
        }
        for pair in pairs
    ]
    path = folder / "preferences.parquet"
    rows = [{"prompt": {"id": pair.id}, **both} for pair, both in zip(pairs, sides, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    save(folder / "policy", run, torch.optim.AdamW(run.model.parameters()))
    return folder / "policy", path


def test_the_training_loop_takes_preferences_and_resumes_to_the_bit(
    run: Checkpoint, sentences: list[str], tmp_path: Path
) -> None:
    policy, path = stored(run, sampled(run, sentences, 5), tmp_path)
    changes = {
        "steps": 12,
        "lr": 1e-3,
        "trunk_lr": 1e-3,
        "warmup": 1,
        "pairs": 2,
        "heldout_share": 0.3,
        "save_every": 5,
    }
    options = options_for(str(policy), str(path), changes | {"eval_every": 6, "schedule": "constant"})
    assert options.dpo is not None
    assert (options.dpo.beta, options.dpo.pairs, options.lr) == (0.1, 2, 1e-3)
    said: list[str] = []
    straight = train(options, [], Path(), tmp_path / "straight", said.append)
    assert straight.before is not None
    assert straight.after is not None
    assert straight.before["total"] == pytest.approx(math.log(2), abs=1e-3)  # held out, before the first step
    log = [json.loads(line) for line in (tmp_path / "straight/log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if "heldout" not in entry]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert steps[-1]["loss"] < 0.6
    assert any("margin" in line and "accuracy" in line for line in said)

    train(options.model_copy(update={"steps": 7}), [], Path(), tmp_path / "halves", lambda line: None)
    resumed = train(options, [], Path(), tmp_path / "halves", lambda line: None)
    one, two = (load(result.checkpoint).model.state_dict() for result in (straight, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    moved = load(policy).model.state_dict()
    assert any(not torch.equal(one[name], moved[name]) for name in one)  # and the policy is as it was
    with pytest.raises(UserError, match="trained with other options"):
        train(options_for(str(policy), str(path), changes | {"beta": 0.5}), [], Path(), tmp_path / "halves")


def test_a_corpus_beside_preferences_is_refused(run: Checkpoint, sentences: list[str], tmp_path: Path) -> None:
    policy, path = stored(run, sampled(run, sentences, 2), tmp_path)
    with pytest.raises(UserError, match="learns preferences and no corpus"):
        train(options_for(str(policy), str(path), {}), [tmp_path], Path(), tmp_path / "out")


def test_no_preferences_there(run: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"nothing")
    for name in ("no.parquet", "none.parquet"):
        with pytest.raises(UserError, match=f"{name}: no preferences of `antiphon preferences`"):
            read_preferences(tmp_path / name, run.layout)
