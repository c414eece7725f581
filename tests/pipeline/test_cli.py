"""The command line as a person meets it: names, wrong use, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cli, commands

ROOT = Path(__file__).resolve().parents[2]


def antiphon(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.cli", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=120)


def test_the_commands_are_these_and_each_has_help() -> None:
    names = ["doctor", "pull", "config", "tokenizers", "convert", "plan", "prepare", "status", "verify", "retry"]
    names += ["inspect", "fit", "dialogues", "train", "evaluate", "preferences", "dpo", "speak"]
    assert list(commands.COMMANDS) == names
    for name in names:
        with pytest.raises(SystemExit) as caught:
            cli.main([name, "--help"])
        assert caught.value.code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "COMMAND"),
        (["prepair"], "invalid choice"),
        (["prepare", "configs/demo.yaml"], "--out"),
        (["prepare", "configs/demo.yaml", "--out", "x", "--blocks", "2/2"], "0 <= i < n"),
        (["evaluate"], "WHAT"),
        (["evaluate", "loss", "x"], "CORPUS"),
        (["status", "x", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_use_exits_2_and_says_what(args: list[str], words: str) -> None:
    done = antiphon(*args)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["prepare", "absent.yaml", "--out", "x"], "absent.yaml: No such file or directory"),
        (["prepare", "configs/demo.yaml", "--out", "x", "--set", "plan.blok_s=3"], "did you mean plan.block_s?"),
        (["prepare", "configs/demo.yaml", "--out", "x", "--set", "sources=[no/such/folder]"], "no/such/folder"),
        (["status", "no-corpus"], "no corpus here"),
        (["inspect", "no-corpus"], "no-corpus"),
        (["pull", "no-such-model"], "no-such-model"),
        (["evaluate", "no-checkpoint", "no-corpus"], "no-c"),
        (["config", "segmnt"], "segment"),
    ],
)
def test_what_a_person_can_mend_is_one_message_without_a_traceback(args: list[str], words: str) -> None:
    done = antiphon(*args)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluate_has_kinds_and_a_checkpoint_first_means_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in commands.EVALUATIONS:
        with pytest.raises(SystemExit) as caught:
            cli.main(["evaluate", name, "--help"])
        assert caught.value.code == 0
    seen = []
    monkeypatch.setitem(commands.EVALUATIONS, "loss", lambda args: seen.append((args.checkpoint, args.corpus)) or 0)
    for words in (["model", "corpus"], ["loss", "model", "corpus"], ["--json", "model", "corpus"]):
        assert cli.main(["evaluate", *words]) == 0
    assert seen == [("model", "corpus")] * 3


def test_config_prints_fields_with_defaults_and_help() -> None:
    done = antiphon("config", "segment")
    assert done.returncode == 0
    assert "segment.max_s = 30.0" in done.stdout
    assert "decode." not in done.stdout


@pytest.mark.parametrize(("words", "goes_on"), [(["retry", "c", "--out", "x"], True), (["evaluate", "m", "c"], False)])
def test_an_interruption_is_one_line_and_promises_to_go_on_only_where_it_does(
    words: list[str], goes_on: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupted)
    assert cli.main(words) == 130
    said = capsys.readouterr().err
    assert "interrupted" in said
    assert ("goes on" in said) == goes_on


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m pipeline.cli config | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
