"""A corpus in an object store: sources, shards and commit records at `gs://`, through Beam's filesystems."""

import json
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from pipeline import files
from pipeline.config import load
from pipeline.inspect import read_rows
from pipeline.prepare import Summary, plan_of, prepare, stages_of
from pipeline.sources import SourceError, find_sources
from pipeline.store import Store
from tests.conftest import Clip


def upload(url: str, name: str, data: bytes) -> None:
    address = f"{url}/upload/storage/v1/b/bkt/o?uploadType=media&name={urllib.parse.quote(name, safe='')}"
    request = urllib.request.Request(address, data, {"Content-Type": "application/octet-stream"})
    urllib.request.urlopen(request, timeout=5).read()


def test_a_remote_corpus_is_made_resumed_and_read(bucket: str, speech: list[Clip]) -> None:
    clips = sorted(speech, key=lambda clip: len(clip.samples))[:2]
    for clip in clips:
        upload(bucket, f"raw/{clip.path.name}", clip.path.read_bytes())
    upload(bucket, "raw/broken.mp3", b"<html>not found</html>")
    lines = [{"audio": f"gs://bkt/raw/{clip.path.name}", "text": clip.text} for clip in clips]
    lines.append({"audio": "broken.mp3", "duration": 2.0})
    upload(bucket, "raw/manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    assert {entry.uri.rsplit("/", 1)[1] for entry in find_sources(["gs://bkt/raw"])} == {
        "broken.mp3",
        *(clip.path.name for clip in clips),
    }
    settings = load(
        None,
        [
            "sources=['gs://bkt/raw/manifest.jsonl']",
            "plan.block_s=5",
            "segment.backend=none",
            "transcribe.backend=given",
            "align.backend=gmm",
            "units=null",
            "codec=null",
            "taste=null",
        ],
    )
    out = "gs://bkt/corpus"
    said: list[str] = []

    def make() -> Summary:
        return prepare(settings, plan_of(settings), stages_of(settings), out, beam_args=["--no_auth"], say=said.append)

    summary = make()
    assert summary.rows == 2
    assert summary.rejected["unreadable"] == pytest.approx(2.0)
    assert {row["text"] for row in read_rows(out)} == {clip.text for clip in clips}
    commits = Store(out).commits()
    make()
    assert said == [f"{len(commits)} of {len(commits)} blocks are committed already"]
    assert Store(out).commits() == commits


def test_a_remote_write_replaces_and_a_missing_object_is_a_missing_file(bucket: str, tmp_path: Path) -> None:
    files.write("gs://bkt/a/b.txt", b"one")
    files.write("gs://bkt/a/b.txt", b"two")
    assert files.read("gs://bkt/a/b.txt") == b"two"
    assert files.names("gs://bkt/a", ".txt") == ["b.txt"]
    files.delete("gs://bkt/a/b.txt")
    files.delete("gs://bkt/a/b.txt")
    assert files.names("gs://bkt/a", ".txt") == []
    with pytest.raises(SourceError, match="gs://bkt/nowhere: nothing there"):
        find_sources(["gs://bkt/nowhere"])
