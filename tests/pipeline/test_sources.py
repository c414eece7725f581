"""Sources: everything named is found once, in one order; every mistake is said at once."""

import json
import os
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


def test_fault_12_the_same_name_in_two_folders_is_two_sources(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.wav", "two/a.wav", "one/A.wav")
    assert len({e.source for e in find_sources([str(tmp_path)])}) == 3


def test_fault_23_names_that_are_not_utf8_are_stored_and_still_found(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a-\xff.wav")).touch()
    (entry,) = find_sources([str(tmp_path)])
    assert entry.source == f"{tmp_path}/a-\\xff.wav"
    assert os.path.exists(entry.uri)
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        '{"audio": "a-\\udcff.wav", "id": "x\\ud800", "text": "t\\ud800", "deep": {"k\\udfff": ["\\ud800"]}}'
    )
    (entry,) = find_sources([str(manifest)])
    assert os.path.exists(entry.uri)
    json.dumps([entry.source, entry.given], ensure_ascii=False).encode()


def test_a_line_may_hold_what_python_takes_for_a_line_end(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio": "a.wav", "text": "one\u2028two\x85three"}\r\n', encoding="utf-8")
    (entry,) = find_sources([str(manifest)])
    assert entry.given["text"] == "one\u2028two\x85three"


def test_numbers_that_no_audio_can_have_are_mistakes(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    wrong = ["1e12", "1" + "0" * 400, "true", "NaN", "Infinity", '"1"', "[1]"]
    lines = [f'{{"audio": "a.wav", "id": "{i}", "duration": {value}}}' for i, value in enumerate(wrong)]
    lines += ['{"audio": "a.wav", "id": "t", "turn": "first"}', '{"audio": ' + "[" * 100_000]
    manifest.write_text("\n".join(lines))
    with pytest.raises(SourceError) as caught:
        find_sources([str(manifest)])
    assert len(str(caught.value).split("\n")) == len(lines)
    assert len(str(caught.value)) < 5000


def test_a_manifest_that_is_a_pipe_or_a_dangling_link_does_not_hold_up_the_plan(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing")
    with pytest.raises(SourceError) as caught:
        find_sources([str(tmp_path / "pipe.jsonl"), str(tmp_path / "gone.jsonl")])
    assert "pipe.jsonl: not a file" in str(caught.value)
    assert "gone.jsonl: No such file" in str(caught.value)


def test_credentials_are_in_the_address_and_nowhere_else(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio": "https://u:hunter2@h/a.wav?sig=hunter2"}')
    (entry,) = find_sources([str(manifest)])
    assert "hunter2" in entry.uri
    assert "hunter2" not in entry.source + entry.recording
