"""Sources: everything named is found once, in one order; every mistake is said at once."""

import json
import random
from pathlib import Path

import pytest

from pipeline.sources import SourceError, find_sources


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_searched_for_audio_and_strange_names_survive(tmp_path: Path) -> None:
    names = ["a.wav", "deep/er/b.FLAC", "with space.mp3", "dots.v2.final.ogg", "🎤.opus", "new\nline.wav", "http:x.wav"]
    touch(tmp_path, *names, "notes.txt", "cover.jpg")
    assert {e.source for e in find_sources([str(tmp_path)])} == {str(tmp_path / name) for name in names}


def test_the_order_of_sources_does_not_matter(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.wav" for i in range(20)))
    sources = [str(tmp_path / f"{i}.wav") for i in range(20)]
    expected = find_sources([str(tmp_path)])
    random.Random(0).shuffle(sources)
    assert find_sources(sources) == expected
    assert find_sources([str(tmp_path / "*.wav")]) == expected


def test_a_manifest_gives_stretches_ids_and_fields(tmp_path: Path) -> None:
    lines = [
        {"audio": "a.wav", "id": "one", "offset": 1.5, "duration": 2, "text": "hi", "speaker": 3},
        {"audio_filepath": "a.wav", "offset": 4},
        {"path": "/abs/b.wav"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n\n".join(map(json.dumps, lines)))
    absolute, second, one = find_sources([str(manifest)])
    assert (one.source, one.offset_s, one.duration_s, one.given) == ("one", 1.5, 2.0, {"text": "hi", "speaker": 3})
    assert second.source == second.uri == one.uri == one.recording == f"{tmp_path}/a.wav"
    assert (second.offset_s, second.duration_s) == (4.0, None)
    assert absolute.uri == "/abs/b.wav"


def test_all_mistakes_at_once_with_file_and_line(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio": "a.wav"}\n{broken\n{"text": "no audio"}\n{"audio": "b.wav", "offset": -1}\n[]\n')
    with pytest.raises(SourceError) as caught:
        find_sources([str(manifest), str(tmp_path / "absent"), str(tmp_path / "*.mp3")])
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0].rpartition("/")[2] for line in lines] == [
        "m.jsonl:2", "m.jsonl:3", "m.jsonl:4", "m.jsonl:5", "absent", "*.mp3",
    ]  # fmt: skip
    assert "-1" in lines[2]


def test_twice_the_same_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    with pytest.raises(SourceError, match="named twice"):
        find_sources([str(tmp_path), str(tmp_path / "a.wav")])
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio": "a.wav", "id": "x"}\n{"audio": "b.wav", "id": "x"}\n')
    with pytest.raises(SourceError, match=r"a\.wav.*b\.wav"):
        find_sources([str(manifest)])


def test_no_sources_is_a_mistake_with_a_hint() -> None:
    with pytest.raises(SourceError, match="sources is empty"):
        find_sources([])


def test_linked_files_are_taken_and_linked_folders_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.wav")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.wav").symlink_to(tmp_path / "real" / "a.wav")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    assert [e.source for e in find_sources([str(tmp_path / "in")])] == [str(tmp_path / "in" / "b.wav")]
