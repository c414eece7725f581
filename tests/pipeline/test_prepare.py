"""The main job on real speech: a row or a rejection for all of it, resumed, repeated, repaired."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, load
from pipeline.inspect import read_rows
from pipeline.prepare import RETRIABLE, Summary, blocks_to_retry, plan_of, prepare, stages_of
from pipeline.store import Store
from schemas import Tokenizer
from schemas import record as records
from tests.conftest import Clip

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, speech: list[Clip]) -> Path:
    """Three short clips of real speech under names that ask for care."""
    folder = tmp_path_factory.mktemp("speech")
    clips = sorted(speech, key=lambda clip: len(clip.samples))[:3]
    for clip, name in zip(clips, ["plain.flac", "with space.v2.flac", "ünï.flac"], strict=True):
        shutil.copy(clip.path, folder / name)
    return folder


def config(folder: Path, *assignments: str) -> Config:
    return load(None, [f"sources=['{folder}']", "plan.block_s=5", "write.formats=[parquet, webdataset]", *assignments])


def make(settings: Config, out: Path, said: list[str] | None = None, **more: Any) -> Summary:
    say = said.append if said is not None else lambda line: None
    return prepare(settings, plan_of(settings), stages_of(settings), str(out), say=say, **more)


@pytest.fixture(scope="module")
def corpus(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    make(config(folder), out)
    return out


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a corpus but the logs, whose times differ from run to run."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.parent.name != "logs"]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def test_each_clip_gives_a_row_with_everything_in_it(corpus: Path, folder: Path) -> None:
    rows = list(read_rows(str(corpus)))
    assert {row["source"] for row in rows} == {str(folder / name) for name in os.listdir(folder)}
    for row in rows:
        assert row["text"]
        assert [w["text"] for w in row["words"]] == row["text"].split()
        ends = [0.0]
        for word in row["words"]:
            assert ends[-1] - 1e-3 <= word["start_s"] <= word["end_s"] <= row["duration_s"] + 1e-3
            ends.append(word["start_s"])
        assert len(row["taste_codes"]) == len(row["words"])
        assert row["asr_avg_logprob"] > -1.0
        assert row["quality_snr_db"] > 0
        assert row["language"] == "en"


def test_streams_agree_with_their_tokenizers_cards(corpus: Path) -> None:
    import json

    import pyarrow.parquet as pq

    for shard in sorted((corpus / "data").glob("*.parquet")):
        cards = json.loads(pq.read_schema(shard).metadata[b"antiphon"])["tokenizers"]
        units, codec, taste = (Tokenizer.from_json(cards[kind]) for kind in records.STREAMS)
        for row in pq.read_table(shard).to_pylist():
            seconds = row["duration_s"]
            assert sum(row["unit_run_lengths"]) == units.n_frames(round(seconds * units.sample_rate_hz))
            assert abs(len(row["codec_codes"][0]) - codec.n_frames(round(seconds * codec.sample_rate_hz))) <= 1
            assert max(row["units"]) < units.sizes[0]
            for book, size in zip(row["codec_codes"], codec.sizes, strict=True):
                assert max(book) < size
            assert all(len(codes) == len(taste.sizes) for codes in row["taste_codes"])


def test_seconds_in_are_seconds_kept_and_rejected(corpus: Path, folder: Path) -> None:
    import soundfile

    commits = Store(str(corpus)).commits().values()
    assert sum(c.samples_in for c in commits) == sum(soundfile.info(f).frames for f in folder.iterdir())
    for c in commits:
        assert c.samples_in == c.samples_kept + sum(c.samples_rejected.values())


def test_a_second_run_does_no_work(corpus: Path, folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (corpus / "commits").iterdir()}
    said: list[str] = []
    summary = make(config(folder), corpus, said)
    assert said == [f"{summary.blocks} of {summary.blocks} blocks are committed already"]
    assert {p: p.stat().st_mtime_ns for p in (corpus / "commits").iterdir()} == before


def test_parts_and_another_order_of_sources_give_the_same_bytes(corpus: Path, folder: Path, tmp_path: Path) -> None:
    names = sorted((str(p) for p in folder.iterdir()), reverse=True)
    settings = config(folder).model_copy(update={"sources": tuple(names)})
    for part in ((1, 2), (0, 2)):
        make(settings, tmp_path, part=part)
    ours, theirs = tree(tmp_path), tree(corpus)
    ours.pop("config.yaml"), theirs.pop("config.yaml")  # it lists the sources as they were given
    assert ours == theirs


def test_killed_and_run_again_gives_the_same_bytes(corpus: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ["prepare", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out")]
    (tmp_path / "c.yaml").write_text(
        f"sources: ['{folder}']\nplan: {{block_s: 5}}\nwrite: {{formats: [parquet, webdataset]}}\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    commits = tmp_path / "out" / "commits"
    deadline = time.monotonic() + 120
    while not (commits.is_dir() and any(commits.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(commits.iterdir())) > 0
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == tree(corpus)


def test_a_changed_option_is_done_again_and_only_what_depends_on_it(corpus: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(corpus, out)
    said: list[str] = []
    make(config(folder, "taste=null"), out, said)
    assert all(row["taste_codes"] is None for row in read_rows(str(out)))
    assert not any("already" in line for line in said)


def without_tokens(*sources: Path) -> Sequence[str]:
    return [
        f"sources={[str(s) for s in sources]!r}",
        "units=null",
        "codec=null",
        "taste=null",
        "transcribe.backend=given",
    ]


def test_a_repaired_file_is_retried_and_nothing_else(speech: list[Clip], tmp_path: Path) -> None:
    clips = sorted(speech, key=lambda clip: len(clip.samples))[:2]
    lines = []
    for i, clip in enumerate(clips):
        shutil.copy(clip.path, tmp_path / f"{i}.flac")
        seconds = len(clip.samples) / clip.rate_hz
        lines.append(f'{{"audio": "{i}.flac", "text": "{clip.text}", "language": "en", "duration": {seconds}}}')
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(lines))
    (tmp_path / "1.flac").write_bytes(b"<html>not found</html>")
    settings = load(None, ["plan.block_s=4", *without_tokens(manifest)])
    first = make(settings, tmp_path / "out")
    assert first.rows == 1
    store = Store(str(tmp_path / "out"))
    again = blocks_to_retry(store, [reason.value for reason in RETRIABLE])
    assert len(again) == 1
    untouched = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "commits").iterdir() if p.stem not in again}
    shutil.copy(clips[1].path, tmp_path / "1.flac")
    second = make(settings, tmp_path / "out", redo=lambda block: block.name in again)
    assert second.rows == 2
    assert blocks_to_retry(store, [reason.value for reason in RETRIABLE]) == set()
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "commits").iterdir() if p.name in untouched}
    assert after == untouched
