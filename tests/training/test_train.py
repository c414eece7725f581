"""The loop: resume to the bit, signals, refusals, held-out losses that fall; and sampling from what was trained."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import UserError
from tests.training.conftest import CARDS
from training.checkpoint import load
from training.evaluate import evaluate, table
from training.generate import Sampling, generate
from training.layouts import CodecLayoutOptions, TasteLayoutOptions
from training.layouts.base import IGNORE
from training.model import HybridLM
from training.options import TrainOptions
from training.reader import Corpus
from training.train import TrainingDiverged, lr_factor, train

Write = Callable[..., Path]


def options(**changed: Any) -> TrainOptions:
    small = {
        "seq_len": 128,
        "batch_tokens": 128,
        "steps": 10,
        "warmup": 2,
        "lr": 1e-2,
        "trunk_lr": 3e-3,
        "log_every": 1,
    }
    return TrainOptions(**(small | {"trunk_layers": 2, "eval_every": 5, "train_text_embeddings": True} | changed))


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The log without what time decides."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if not k.endswith(("_per_s", "_per_h", "machine"))} for entry in entries]


def stop_after(step: int, number: signal.Signals) -> Callable[[str], None]:
    """A listener that signals this process when a step's line is said."""

    def say(line: str) -> None:
        if line.startswith(f"step {step:>5}/"):
            os.kill(os.getpid(), number)

    return say


@pytest.mark.parametrize("layout", [TasteLayoutOptions(), CodecLayoutOptions()], ids=lambda o: o.name)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_is_the_same_to_the_bit(
    write_corpus: Write, trunk: Path, tmp_path: Path, layout: Any, number: signal.Signals
) -> None:
    corpus, settings = write_corpus(), options(layout=layout)
    straight = train(settings, [corpus], trunk, tmp_path / "straight", lambda line: None)
    first = train(settings, [corpus], trunk, tmp_path / "halves", stop_after(5, number))
    assert (first.interrupted, first.step) == (True, 5)
    second = train(settings, [corpus], trunk, tmp_path / "halves", lambda line: None)
    assert (second.interrupted, second.step) == (False, 10)
    assert steps_of(tmp_path / "halves") == steps_of(tmp_path / "straight")
    one, two = (load(result.checkpoint) for result in (straight, second))
    assert one.progress == two.progress
    for (name, a), b in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_killed_between_checkpoints_goes_back_to_the_last(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    """A run that dies writes no checkpoint of its last steps; they are done again, and the log has each step once."""
    corpus, settings = write_corpus(), options(save_every=4)
    train(settings, [corpus], trunk, tmp_path / "straight", lambda line: None)

    def die(line: str) -> None:
        if line.startswith("step     7/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, [corpus], trunk, tmp_path / "killed", die)
    leftover = tmp_path / "killed" / "checkpoints" / ".tmp-step-000008"
    leftover.mkdir()
    said: list[str] = []
    train(settings, [corpus], trunk, tmp_path / "killed", said.append)
    assert "step-000004, step 4" in said[0]
    assert steps_of(tmp_path / "killed") == steps_of(tmp_path / "straight")
    assert sorted(p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()) == ["step-000008", "step-000010"]


def test_longer_training_goes_on_and_a_finished_run_does_nothing(
    write_corpus: Write, trunk: Path, tmp_path: Path
) -> None:
    corpus, out = write_corpus(), tmp_path / "out"
    settings = options(steps=3, schedule="constant", save_every=1, keep=1)
    train(settings, [corpus], trunk, out, lambda line: None)
    said: list[str] = []
    assert train(settings, [corpus], trunk, out, said.append).step == 3
    assert any("nothing to do" in line for line in said)
    assert len([entry for entry in steps_of(out) if "heldout" in entry]) == 2
    assert train(settings.model_copy(update={"steps": 5}), [corpus], trunk, out, lambda line: None).step == 5
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-000005"]


def test_other_options_other_tokens_and_nan_are_refused(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    corpus, out = write_corpus(), tmp_path / "out"
    train(options(steps=2), [corpus], trunk, out, lambda line: None)
    with pytest.raises(UserError, match=r"other options \(lr: 0.01 there, 0.5 now\)"):
        train(options(steps=4, lr=0.5), [corpus], trunk, out)
    other = write_corpus("other", cards=CARDS | {"taste": replace(CARDS["taste"], revision="else")})
    with pytest.raises(
        UserError, match=r"step-000002 was trained on other tokens than the corpus holds: taste: .*7a57e.*else"
    ):
        train(options(steps=4), [other], trunk, out)
    with pytest.raises(UserError, match=r"taste: .*else"):
        evaluate(out, other)


def test_a_loss_that_is_not_a_number_names_the_rows(
    write_corpus: Write, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus()
    original = HybridLM.forward

    def poisoned(self: HybridLM, batch: Any) -> Any:
        with torch.no_grad():
            self.speech_head.weight[0, 0] = float("inf")
        return original(self, batch)

    monkeypatch.setattr(HybridLM, "forward", poisoned)
    with pytest.raises(TrainingDiverged) as error:
        train(options(eval_every=0), [corpus], trunk, tmp_path / "out", lambda line: None)
    ids = {row["id"] for row in Corpus(corpus).rows("train")}
    assert any(i in str(error.value) for i in ids)
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize(
    "layout", [TasteLayoutOptions(), CodecLayoutOptions(prompt_max_gap_s=0.2)], ids=lambda o: o.name
)
def test_every_held_out_stream_falls_and_the_model_speaks(
    write_corpus: Write, trunk: Path, tmp_path: Path, layout: Any
) -> None:
    corpus, out = write_corpus(n_train=40), tmp_path / "out"
    said: list[str] = []
    result = train(options(steps=60, eval_every=60, layout=layout, batch_tokens=256), [corpus], trunk, out, said.append)
    assert result.before is not None
    assert result.after is not None
    for stream, before in result.before["streams"].items():
        assert result.after["streams"][stream]["loss"] < before["loss"], stream
    assert all(word in said[2] for word in ("loss", "text", "lr", "tokens/s", "audio-h/h", "ETA", "|g|"))

    report = evaluate(out, corpus)
    assert report.rows == 6
    assert report.total == pytest.approx(result.after["total"], rel=1e-5)
    assert report.streams["text"].labels == result.after["streams"]["text"]["labels"]
    assert "perplexity" in table(report)

    checkpoint = load(out)
    kind = checkpoint.layout.name
    a, b = (generate(checkpoint, "ask what you can", max_s=2.0, sampling=Sampling(seed=s)) for s in (1, 1))
    assert a.words[:4] == ["ask", "what", "you", "can"]
    np.testing.assert_array_equal(a.inputs, b.inputs)
    sizes = np.array(CARDS[checkpoint.layout.kind].sizes)
    if kind == "codec":
        assert a.codes.shape[0] == 3
        assert 1 <= a.codes.shape[1] <= 50
        assert (a.codes < sizes[:, None]).all()
    else:
        assert a.codes.shape == (len(a.words), 2)
        assert (a.codes < sizes).all()

    row = next(Corpus(corpus).rows("heldout", checkpoint.layout.columns))
    n = 2 if kind == "taste" else 10
    prefix = dict(row)
    prefix["words"] = row["words"][:2]
    prefix[checkpoint.layout.column] = row["taste_codes"][:n] if kind == "taste" else row["codec_codes"][:, :n]
    further = generate(checkpoint, prefix=prefix, max_s=3.0)
    expected = checkpoint.layout.apply(checkpoint.layout.example(prefix, checkpoint.text.encode))
    given = further.codes[:n] if kind == "taste" else further.codes[:, :n]
    np.testing.assert_array_equal(given, prefix[checkpoint.layout.column])
    assert (further.inputs[:4, 0] == expected.inputs[:4, 0]).all()
    assert len(further.inputs) > n


def test_cached_sampling_is_what_the_model_says_without_a_cache(
    write_corpus: Write, trunk: Path, tmp_path: Path
) -> None:
    """Greedy sampling is retraced in one pass: every drawn id is the likeliest of its allowed range."""
    out = tmp_path / "out"
    settings = options(steps=5, eval_every=0, layout=CodecLayoutOptions())
    train(settings, [write_corpus()], trunk, out, lambda line: None)
    checkpoint = load(out)
    spoken = generate(checkpoint, "yes", max_s=1.0, sampling=Sampling(temperature=0))
    with torch.no_grad():
        hidden = checkpoint.model.hidden(torch.from_numpy(spoken.inputs)[None])[0]
        logits = checkpoint.model.speech_logits(hidden)
    laid = spoken.inputs[1:, 1:]
    for k, row in enumerate(checkpoint.layout.rows[1:]):
        drawn = laid[:, k] < row.size
        likeliest = logits[k][:-1, : row.size].argmax(-1).numpy()
        np.testing.assert_array_equal(laid[drawn, k], likeliest[drawn])
    assert IGNORE not in spoken.inputs


def test_learning_rate_schedules() -> None:
    def curve(schedule: Any) -> list[float]:
        return [lr_factor(step, TrainOptions(steps=100, warmup=10, schedule=schedule)) for step in range(100)]

    for schedule in ("cosine", "wsd", "constant"):
        assert curve(schedule)[:10] == pytest.approx(np.arange(1, 11) / 10)
        assert max(curve(schedule)) <= 1.0
    assert curve("constant")[10:] == [1.0] * 90
    assert curve("cosine")[-1] == pytest.approx(0.1, abs=1e-3)
    assert curve("wsd")[81] == 1.0
    assert 0 < curve("wsd")[-1] < 0.1
