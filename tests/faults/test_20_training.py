"""Fault 20, beside tests/training/test_train.py: SIGKILL in a real process, saving that fails, a shard damaged in mid-epoch."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.disk import Disk, failing
from tests.training.conftest import one_thread, sentences, trunk, write_corpus  # noqa: F401
from tests.training.test_train import options, steps_of
from training import checkpoint as checkpoints
from training import saving
from training.checkpoint import load, newest, save
from training.log import Log
from training.options import TrainOptions
from training.saving import NotSaved
from training.train import make_optimizer, train

ROOT = Path(__file__).resolve().parents[2]
Write = Callable[..., Path]

_TRAIN = """
import sys, torch
from pathlib import Path
from training.options import TrainOptions
from training.train import train
torch.set_num_threads(1)
options, corpus, trunk, out = sys.argv[1:]
train(TrainOptions.model_validate_json(options), [corpus], Path(trunk), Path(out), lambda line: print(line, flush=True))
"""


def test_killed_after_any_line_the_log_is_the_same_to_the_bit(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:  # noqa: F811
    """One process, killed with SIGKILL while it trains, and gone on with, twice; data order and losses as if never killed."""
    corpus, settings = write_corpus(), options(steps=12, save_every=3)
    train(settings, [corpus], trunk, tmp_path / "straight", lambda line: None)
    out = tmp_path / "killed"
    command = [sys.executable, "-c", _TRAIN, settings.model_dump_json(), str(corpus), str(trunk), str(out)]
    for step in (4, 8):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"step {step:>5}/"):
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "checkpoints" / "step-000012").exists()
    train(settings, [corpus], trunk, out, lambda line: None)
    assert steps_of(out) == steps_of(tmp_path / "straight")
    ours, theirs = (newest(folder) for folder in (out, tmp_path / "straight"))
    assert ours is not None
    assert theirs is not None
    for name in ("model.safetensors", "progress.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert not list(out.rglob(".tmp-*"))


def test_opening_the_log_never_loses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming cuts the log back to the checkpoint's step: a failure right then leaves the old one."""
    from training import log as logs

    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 6)) + '{"step": 6, "lo')
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        Disk(0, failing(errno.EIO), only="replace").under(logs, patch)
        with pytest.raises(NotSaved, match=r"log.jsonl: could not write: Input/output error"):
            Log(path, 3)
    assert path.read_bytes() == before
    Log(path, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_saving_that_fails_anywhere_leaves_the_last_checkpoint(
    write_corpus: Write,  # noqa: F811
    trunk: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    train(options(steps=1, eval_every=0), [write_corpus()], trunk, out, lambda line: None)
    run = load(out)
    optimizer = make_optimizer(run.model, run.options)
    checkpoints.load_state(run.path, optimizer)  # type: ignore[arg-type]
    run.progress = checkpoints.Progress(2, run.progress.position, run.progress.corpora)
    with monkeypatch.context() as patch:
        disk = Disk()
        for module in (checkpoints, saving):
            disk.under(module, patch)
        save(tmp_path / "elsewhere", run, optimizer)
    assert disk.seen.count("replace") == 1
    for at in range(len(disk.seen)):
        with monkeypatch.context() as patch:
            failing_disk = Disk(at, failing(errno.ENOSPC))
            for module in (checkpoints, saving):
                failing_disk.under(module, patch)
            with pytest.raises(NotSaved, match=r"step-000002: could not write: No space left on device; make room"):
                save(out, run, optimizer)
        assert not list(out.rglob(".tmp-*"))
        found = newest(out)
        assert found is not None
        # After the rename it is there, and whole; before, the last one is.
        assert found.name == ("step-000002" if disk.seen[:at].count("replace") else "step-000001")
        assert load(out).progress.step == int(found.name[-1])
        shutil.rmtree(out / "checkpoints" / "step-000002", ignore_errors=True)
    save(out, run, optimizer)
    assert newest(out) == out / "checkpoints" / "step-000002"


@pytest.mark.parametrize("writer", ["torch.save", "safetensors.torch.save_model"])
def test_a_really_full_disk_is_one_line(writer: str, write_corpus: Write, trunk: Path, tmp_path: Path) -> None:  # noqa: F811
    """torch and safetensors write by themselves, and say it in their own ways."""
    small = tmp_path / "small"
    small.mkdir()
    train(options(steps=1, eval_every=0), [write_corpus()], trunk, tmp_path / "out", lambda line: None)
    folder = newest(tmp_path / "out")
    assert folder is not None
    sizes = {p.name: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    model, rest = sizes["model.safetensors"], sum(sizes.values()) - sizes["model.safetensors"] - sizes["state.pt"]
    size = rest + model // 2 if writer.startswith("safe") else rest + model + sizes["state.pt"] // 2
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size + 40960}", "tmpfs", small], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        run = load(tmp_path / "out")
        optimizer = make_optimizer(run.model, run.options)
        checkpoints.load_state(folder, optimizer)
        with pytest.raises(NotSaved, match=r"step-000001: could not write: .*run the same command again"):
            save(small, run, optimizer)
        assert newest(small) is None
        assert not list(small.rglob(".tmp-*"))
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_shard_damaged_in_mid_epoch_stops_or_is_left_out(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:  # noqa: F811
    corpus = write_corpus()
    shard = corpus / "data" / "part-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    settings = options(steps=2, eval_every=0)
    with pytest.raises(Exception, match=r"part-00001.parquet: its bytes are not those"):
        train(settings, [corpus], trunk, tmp_path / "stopped", lambda line: None)
    lax = TrainOptions.model_validate(settings.model_dump() | {"damaged": "skip"})
    with pytest.warns(UserWarning, match=r"part-00001.parquet.*10 rows are skipped"):
        assert train(lax, [corpus], trunk, tmp_path / "skipped", lambda line: None).step == 2
