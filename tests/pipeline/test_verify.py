"""`antiphon verify`: what it finds beside flipped bytes (tests/faults/test_18_flipped_byte.py)."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline import cli
from pipeline.plan import read_plan, write_plan
from pipeline.prepare import fingerprint
from pipeline.store import Store
from pipeline.verify import verify
from schemas import Block, Piece
from tests import made


def planned(index: int) -> Block:
    block = made.block(index)
    block.pieces = [Piece(u.source, f"/audio/{u.source}", "f") for u in block.utterances]
    return block


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two blocks as planned, one of them not committed yet, and a config that fits."""
    blocks = [planned(0), planned(1)]
    config = {"config": {"write": {"formats": ["parquet", "webdataset"]}}, "stages": [{"name": "test", "version": 1}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "plan.jsonl").write_text(write_plan(blocks))
    commit(tmp_path, blocks[0])
    return tmp_path


def commit(root: Path, block: Block) -> None:
    prints = yaml.safe_load((root / "config.yaml").read_text())["stages"]
    formats = ["parquet", "webdataset"]
    Store(str(root)).commit(block, fingerprint(block, prints, formats), formats)


def said(root: Path) -> list[str]:
    return [f"{p.path}: {p.what}" for p in verify(str(root)).problems]


def test_a_whole_corpus_exits_0_and_an_unfinished_one_says_so(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(corpus)]) == 0
    assert "unfinished: 1 of 2 planned blocks" in capsys.readouterr().out
    commit(corpus, planned(1))
    assert cli.main(["verify", str(corpus)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("whole: 2 blocks, 6 files")
    assert "unfinished" not in out


def test_what_is_missing_and_what_nobody_names(corpus: Path) -> None:
    (corpus / "data" / "part-00000.parquet").unlink()
    (corpus / "wds" / "part-00007.tar").touch()
    (corpus / "wds" / ".tmp-12-part-00001.tar").touch()
    found = verify(str(corpus))
    assert found.damaged == ["part-00000"]
    assert [(p.path, p.left) for p in found.problems] == [
        ("data/part-00000.parquet", False),
        ("wds/part-00007.tar", True),
        ("wds/.tmp-12-part-00001.tar", True),
    ]
    assert cli.main(["verify", str(corpus), "--forget"]) == 1
    assert not [p for p in corpus.rglob("*") if p.is_file() and p.parent != corpus]


def test_files_of_a_run_at_work_are_no_fault(corpus: Path) -> None:
    (corpus / "wds" / "part-00001.tar").touch()
    with Store(str(corpus)).lock(None):
        found = verify(str(corpus))
    assert not found.problems
    assert "a run is writing" in found.notes[0]


def test_blocks_of_another_config_or_of_a_larger_run_are_named(corpus: Path) -> None:
    commit(corpus, planned(2))
    config = yaml.safe_load((corpus / "config.yaml").read_text())
    config["stages"][0]["version"] = 2
    (corpus / "config.yaml").write_text(yaml.safe_dump(config))
    lines = said(corpus)
    assert "commits/part-00000.json: made of other sources, options or weights" in lines[0]
    assert "commits/part-00002.json: no block of plan.jsonl" in lines[1]


def test_seconds_that_leak_and_rows_that_lack_are_named(corpus: Path) -> None:
    record = Store(str(corpus)).commits()["part-00000"]
    path = corpus / "commits" / "part-00000.json"
    path.write_text(replace(record, samples_in=record.samples_in + 1).to_json())
    assert said(corpus) == ["commits/part-00000.json: 128001 samples in, but 96000 kept and 32000 rejected"]
    path.write_text(replace(record, rows=4).to_json())
    assert said(corpus) == [f"{n}: 3 rows, and its record says 4" for n in record.files if "rejected" not in n]
    path.write_text(replace(record, rejections={"unsure": 2}).to_json())
    assert said(corpus) == ["rejected/part-00000.parquet: rejections {'unsure': 1}, and its record says {'unsure': 2}"]


def test_a_committed_file_that_does_not_read_is_named(corpus: Path) -> None:
    record = Store(str(corpus)).commits()["part-00000"]
    for name in record.files:
        (corpus / name).write_bytes(b"PAR1")
        record.files[name] = hashlib.sha256(b"PAR1").hexdigest()
    (corpus / "commits" / "part-00000.json").write_text(record.to_json())
    lines = said(corpus)
    assert sum("does not read" in line for line in lines) == 3


def test_a_row_that_is_there_twice_is_named(corpus: Path) -> None:
    again = planned(0)
    again.index = 1
    commit(corpus, again)
    assert any("is also in part-00000" in line for line in said(corpus))


def test_one_recording_in_two_splits_is_named(corpus: Path) -> None:
    """Fault 22. Two manifest ids of one file count as one recording."""
    block = planned(1)
    block.utterances[0].split, block.utterances[1].split = "train", "heldout"
    for piece in block.pieces[:2]:
        piece.uri = "/audio/meeting.flac"
    (corpus / "plan.jsonl").write_text(write_plan([planned(0), block]))
    commit(corpus, block)
    assert said(corpus) == [
        "plan.jsonl: the recording /audio/meeting.flac is in the splits heldout and train: held-out losses are not to be trusted"
    ]


def test_no_corpus_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "no corpus" in capsys.readouterr().err


def test_what_is_redacted_in_the_plan_is_no_change_of_source() -> None:
    block = planned(0)
    block.pieces[0].given = {"link": "https://me:secret@host/talk.flac?signature=abc"}
    text = write_plan([block])
    assert "secret" not in text
    assert fingerprint(read_plan(text)[0], [], ["parquet"]) == fingerprint(block, [], ["parquet"])
