"""Commit and resume: what is in the dataset, and who may write to it."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import CorpusBusy, Store
from tests import made


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_commit_says_what_it_holds_and_adds_up(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record = store.commit(made.block(), "f" * 64, ["parquet", "webdataset"])
    assert store.commits() == {"part-00000": record}
    assert record.seconds_in == record.seconds_kept + record.seconds_rejected == 8.0
    assert record.rejections == {"unsure": 1}
    assert sorted(record.files) == ["data/part-00000.parquet", "rejected/part-00000.parquet", "wds/part-00000.tar"]


def test_leaking_seconds_stop_the_commit(tmp_path: Path) -> None:
    block = made.block()
    block.samples_in += 1
    with pytest.raises(AssertionError, match=r"part-00000: 128001 samples in, but 96000 kept \+ 32000 rejected"):
        Store(str(tmp_path)).commit(block, "f", ["parquet"])
    assert not list(tmp_path.rglob("*.json"))


def test_clean_keeps_what_stands_and_removes_the_rest(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for index in range(3):
        store.commit(made.block(index), f"print-{index}", ["parquet"])
    files = tree(tmp_path)
    os.unlink(tmp_path / "commits" / "part-00002.json")  # killed between its files and its record
    (tmp_path / "data" / ".tmp-7-part-00009.parquet").touch()
    kept = store.clean({"part-00000": "print-0", "part-00001": "changed", "part-00002": "print-2"})
    assert kept == ["part-00000"]
    assert tree(tmp_path) == {name: data for name, data in files.items() if "part-00000" in name}


def test_committed_bytes_do_not_depend_on_how_long_it_took(tmp_path: Path) -> None:
    for name, seconds in (("a", 0.5), ("b", 9.0)):
        block = made.block()
        block.stage_s = {"decode": seconds}
        Store(str(tmp_path / name)).commit(block, "f", ["parquet", "webdataset"])
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert json.loads(a.pop("logs/part-00000.json")) != json.loads(b.pop("logs/part-00000.json"))
    assert a == b


def _try(root: str, part: Any, answers: Any) -> None:
    try:
        with Store(root).lock(part):
            answers.put("held")
    except CorpusBusy as error:
        answers.put(str(error))


def in_another_process(root: Path, part: tuple[int, int] | None) -> str:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_try, args=(str(root), part, answers))
    process.start()
    answer = answers.get(timeout=60)
    process.join()
    return str(answer)


def test_two_runs_refuse_each_other_and_parts_share(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with store.lock(None):
        refusal = in_another_process(tmp_path, None)
        assert f"process {os.getpid()}" in refusal
        assert str(tmp_path) in refusal
        assert "is writing" in in_another_process(tmp_path, (1, 2))
    with store.lock((0, 2)):
        assert in_another_process(tmp_path, (1, 2)) == "held"
        assert "is writing" in in_another_process(tmp_path, (0, 2))
        assert "is writing" in in_another_process(tmp_path, None)
    assert os.listdir(tmp_path) == []
