"""The zoo of bad inputs through the whole pipeline: a row or a rejection for each, for the right reason, and no second lost."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.inspect import read_rows
from pipeline.store import Store
from schemas import Reason
from schemas.rejection import meanings
from schemas.show import valid
from tests import zoo
from tests.conftest import ROOT, SHARED

CHEAP = "{transcribe: {backend: given}, units: null, codec: null, taste: null, plan: {block_s: 30}, decode: {timeout_s: 30}}"


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    folder.mkdir()
    made = zoo.build(folder)
    yield folder, {animal.name: animal for animal in made}
    zoo.remove(folder)


@pytest.fixture(scope="module")
def corpus(animals: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of `antiphon prepare` over the whole zoo, in a process of its own, ended if it takes ten minutes."""
    folder, _ = animals
    out = tmp_path_factory.mktemp("zoo-corpus")
    (folder.parent / "config.yaml").write_text(CHEAP)
    sources = [str(folder / name) for name in ("zoo.jsonl", "zoo.tar", "torn.tar", "packed.tar")]
    arguments = [str(folder.parent / "config.yaml"), "--set", f"sources={sources}", "--out", str(out)]
    command = [sys.executable, "-m", "pipeline.cli", "prepare", *arguments, "--set", "limits.max_rejected_share=1"]
    command += ["--set", "limits.max_fault_share=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def found(corpus: Path) -> dict[str, tuple[int, list[dict[str, Any]], float]]:
    """Source -> rows, rejections, seconds."""
    rows: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    rejected: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(str(corpus)):
        rows[row["source"]] += 1
        seconds[row["source"]] += row["duration_s"]
    for line in read_rows(str(corpus), "rejected"):
        rejected.setdefault(line["source"], []).append(line)
        seconds[line["source"]] += line["end_s"] - line["start_s"]
    return {name: (rows[name], rejected.get(name, []), seconds[name]) for name in {*rows, *rejected}}


def verdict(rows: int, rejected: list[dict[str, Any]]) -> str:
    """What decode said; else "kept" where there is a row; else the reason of most seconds."""
    of_decode = {line["reason"] for line in rejected if line["stage"] == "decode"}
    if of_decode:
        return "+".join(sorted(of_decode))
    if rows:
        return zoo.KEPT
    spent: Counter[str] = Counter()
    for line in rejected:
        spent[line["reason"]] += line["end_s"] - line["start_s"]
    return spent.most_common(1)[0][0]


def test_fault_01_every_animal_has_the_verdict_of_the_table(animals: Any, found: dict[str, Any]) -> None:
    folder, table = animals
    wrong = {}
    for name, animal in table.items():
        source = animal.source or valid(f"{folder}/{name}")
        rows, rejected, _ = found.get(
            source, (0, [{"stage": "", "reason": "LOST", "start_s": 0, "end_s": 0, "detail": ""}], 0.0)
        )
        got = verdict(rows, rejected)
        if animal.verdict == zoo.KEPT and not SHARED.is_dir() and "decode" not in {line["stage"] for line in rejected}:
            continue  # without real speech, to be decoded is all that can be asked
        if got != animal.verdict:
            wrong[name] = (animal.verdict, got, [line["detail"] for line in rejected][:2])
    assert not wrong, "\n".join(f"{name!r}: {what}" for name, what in wrong.items())
    assert len(table) >= 40


def test_every_second_of_every_animal_is_accounted_for(animals: Any, corpus: Path, found: dict[str, Any]) -> None:
    folder, table = animals
    commits = Store(str(corpus)).commits().values()
    for commit in commits:
        assert commit.samples_in == commit.samples_kept + sum(commit.samples_rejected.values())
    assert sum(c.seconds_in for c in commits) == pytest.approx(sum(seconds for _, _, seconds in found.values()))
    wrong = {}
    for name, animal in table.items():
        seconds = found[animal.source or valid(f"{folder}/{name}")][2]
        if animal.seconds is not None and abs(seconds - animal.seconds) > max(0.15, 0.001 * animal.seconds):
            wrong[name] = (animal.seconds, seconds)
    assert not wrong, "\n".join(f"{name!r}: {what}" for name, what in wrong.items())


def test_nothing_of_a_tar_is_written_anywhere(animals: Any, corpus: Path) -> None:
    folder, _ = animals
    assert not list(folder.parent.parent.rglob("escape.*"))
    assert not Path("/absolute.flac").exists()


def test_no_escape_code_of_a_file_name_reaches_the_terminal(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(corpus), "--rows", "1000"]) == main(["inspect", str(corpus), "--rejected"]) == 0
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    assert "\\x1b[31mred\\u202egpj.flac" in printed


def test_the_documented_reasons_are_the_reasons(animals: Any) -> None:
    assert set(meanings()) == set(Reason)
    _, table = animals
    assert (ROOT / "docs" / "rejections.md").read_text(encoding="utf-8") == zoo.page(list(table.values()))
