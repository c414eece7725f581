"""Several processes, and several parts of a batch, give what one process gives on the whole batch."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.training.test_preferences import stored
from tests.training.test_scoring import checkpoint, rows
from tests.training.test_train import options, steps_of
from training.checkpoint import load
from training.dpo import options_for
from training.layouts import CodecLayoutOptions
from training.options import TrainOptions
from training.preferences import Preference
from training.scoring import lay
from training.train import train

Write = Callable[..., Path]
ROOT = Path(__file__).parents[2]
LORA = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}, "depth": {"kind": "csm", "layers": 1, "width": 16, "heads": 2}}


def torchrun(settings: Any, trunk: Path, out: Path, *corpora: Path, n: int = 2) -> str:
    """A run of `n` processes on this machine. Gives what they said."""
    done = torchrun_done(settings, trunk, out, *corpora, n=n)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def torchrun_done(
    settings: Any, trunk: Path, out: Path, *corpora: Path, n: int = 2, fault: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The same, however it ended. `fault`: what befalls the second process in its third step."""
    worker = [
        str(Path(__file__).with_name("ddp_worker.py")),
        settings.model_dump_json(),
        str(trunk),
        str(out),
        *map(str, corpora),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *worker]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | ({"FAULT": fault} if fault else {})
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def settings(**changed: Any) -> Any:
    return options(batch_tokens=512, layout={"name": "codec"}, schedule="constant", save_every=100, **changed)


def assert_same(found: Path, expected: Path) -> None:
    ours, theirs = steps_of(found), steps_of(expected)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs]
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.get("heldout", a), b.get("heldout", b)
        assert a.get("loss", a.get("total")) == pytest.approx(b.get("loss", b.get("total")), rel=2e-4)
        assert a.get("grad_norm", 0) == pytest.approx(b.get("grad_norm", 0), rel=2e-2)
        assert set(a["streams"]) == set(b["streams"])
    for name, weight in safetensors.torch.load_file(load(found).path / "model.safetensors").items():
        other = load(expected).model.state_dict()[name]
        torch.testing.assert_close(weight, other, rtol=2e-2, atol=4e-3, msg=name)
    assert load(found).progress.position == load(expected).progress.position
    assert load(found).progress.tokens == load(expected).progress.tokens


def test_parts_of_a_batch_add_up_to_the_whole(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    """Also where the rows do not divide evenly, and a part has none."""
    corpus = write_corpus()
    train(settings(steps=4), [corpus], trunk, tmp_path / "whole", lambda line: None)
    train(settings(steps=4, accumulate=3), [corpus], trunk, tmp_path / "parts", lambda line: None)
    assert_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_two_and_one_process_are_one_run(write_corpus: Write, trunk: Path, tmp_path: Path, parallel: str) -> None:
    """Begun alone, gone on with by two processes, and ended alone: the losses and weights of one process all the way."""
    corpus = write_corpus()
    model = {"model": LORA, "train_text_embeddings": False} if parallel == "ddp" else {}
    train(settings(steps=6, **model), [corpus], trunk, tmp_path / "alone", lambda line: None)
    out = tmp_path / "varied"
    train(settings(steps=2, **model), [corpus], trunk, out, lambda line: None)
    said = torchrun(settings(steps=4, parallel=parallel, accumulate=2, **model), trunk, out, corpus)
    assert said.count("step     3/4") == 1  # one process speaks
    assert "over 2 processes" in said
    train(settings(steps=6, **model), [corpus], trunk, out, lambda line: None)
    kept = [entry for entry in steps_of(tmp_path / "alone") if "heldout" not in entry]
    found = [entry for entry in steps_of(out) if "heldout" not in entry]
    assert [entry["loss"] for entry in found] == pytest.approx([entry["loss"] for entry in kept], rel=2e-4)
    assert load(out).progress.position == load(tmp_path / "alone").progress.position


def test_latents_beside_batches_of_text_are_one_run_too(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    """What is drawn anew is the same for all processes, and a batch without latents leaves no weight without a gradient."""
    (tmp_path / "text.jsonl").write_text('{"text": "In the beginning there was a word, and it was written."}\n' * 40)
    corpus = write_corpus()
    head = {"name": "flow", "width": 16, "depth": 1, "input_noise": 0.1}
    wanted = settings(steps=4).model_copy(update={"eval_every": 0}).model_dump(exclude={"layout", "model", "text"})
    wanted |= {"layout": {"name": "latents"}, "model": {"latent": head}}
    wanted |= {"text": [{"path": str(tmp_path / "text.jsonl"), "share": 0.5}]}
    made = TrainOptions.model_validate(wanted)
    train(made, [corpus], trunk, tmp_path / "alone", lambda line: None)
    assert any("latent" not in entry["streams"] for entry in steps_of(tmp_path / "alone"))
    torchrun(made, trunk, tmp_path / "two", corpus)
    assert_same(tmp_path / "two", tmp_path / "alone")


def test_units_by_ctc_under_two_processes(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    """Also where a process has no document with units in its part: two rows, and the second run's batch has one."""
    corpus = write_corpus()
    for name, tokens in (("two", 256), ("one", 128)):
        wanted = settings(steps=3).model_copy(update={"batch_tokens": tokens})
        wanted = type(wanted).model_validate(wanted.model_dump() | {"layout": {"name": "llama-omni", "upsample": 12}})
        train(wanted, [corpus], trunk, tmp_path / f"alone-{name}", lambda line: None)
        torchrun(wanted, trunk, tmp_path / name, corpus)
        assert_same(tmp_path / name, tmp_path / f"alone-{name}")
        assert "units" in steps_of(tmp_path / name)[-2]["streams"]


def test_preferences_under_two_processes_and_one(trunk: Path, sentences: list[str], tmp_path: Path) -> None:
    """DPO with an odd number of pairs: two processes, gone on with by one, are one process all the way."""
    policy = checkpoint(trunk, CodecLayoutOptions())
    laid = [lay(policy, row) for row in rows(sentences, range(10))]
    pairs = [Preference(a.id, a, b) for a, b in zip(laid[:5], laid[5:], strict=True)]
    folder, path = stored(policy, pairs, tmp_path)
    changes = {"steps": 4, "lr": 1e-3, "trunk_lr": 1e-3, "warmup": 1, "pairs": 3, "heldout_share": 0.0}
    wanted = options_for(str(folder), str(path), changes | {"schedule": "constant", "save_every": 2})
    train(wanted, [], Path(), tmp_path / "alone", lambda line: None)
    torchrun(wanted.model_copy(update={"steps": 2}), Path(), tmp_path / "varied")
    train(wanted, [], Path(), tmp_path / "varied", lambda line: None)
    assert_same(tmp_path / "varied", tmp_path / "alone")
    losses = [entry["loss"] for entry in steps_of(tmp_path / "varied") if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
    assert losses[-1] < losses[0] - 1e-2


def test_a_signal_to_one_process_stops_both_after_the_same_step(
    write_corpus: Write, trunk: Path, tmp_path: Path
) -> None:
    corpus, wanted = write_corpus(), settings(steps=5, eval_every=0)
    done = torchrun_done(wanted, trunk, tmp_path / "out", corpus, fault="sigterm")
    assert done.returncode == 0, done.stderr[-6000:]
    assert "stopped by a signal to another process after step 3" in done.stdout
    assert load(tmp_path / "out").progress.step == 3
    train(wanted, [corpus], trunk, tmp_path / "out", lambda line: None)
    train(wanted, [corpus], trunk, tmp_path / "straight", lambda line: None)
    assert_same(tmp_path / "out", tmp_path / "straight")


def test_a_loss_that_is_no_number_in_one_process_stops_both(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    wanted = settings(steps=5, eval_every=0).model_copy(update={"save_every": 1})
    done = torchrun_done(wanted, trunk, tmp_path / "out", write_corpus(), fault="nan")
    assert done.returncode != 0
    assert "TrainingDiverged: step 3: loss nan" in done.stderr
    assert load(tmp_path / "out").progress.step == 2
