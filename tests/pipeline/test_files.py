"""Atomic writes: the old file or the new one, never a torn one."""

import os
from pathlib import Path

import pytest

from pipeline import files


def test_a_write_makes_folders_and_leaves_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.bin"
    files.write(str(target), b"one")
    files.write(str(target), b"two")
    assert files.read(str(target)) == b"two"
    assert os.listdir(target.parent) == ["b.bin"]


def test_a_failed_rename_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "b.bin"
    files.write(str(target), b"old")

    def broken(source: object, destination: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="Input/output error"):
        files.write(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b.bin"]


def test_names_are_sorted_and_hide_temporaries(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", f"{files.TEMPORARY}1-c.json", "d.txt"):
        (tmp_path / name).touch()
    assert files.names(str(tmp_path), ".json") == ["a.json", "b.json"]
    assert files.names(str(tmp_path / "absent"), ".json") == []


def test_sweep_removes_only_what_a_crash_left(tmp_path: Path) -> None:
    inner = tmp_path / "data"
    inner.mkdir()
    (inner / f"{files.TEMPORARY}9-part").touch()
    (inner / "part").touch()
    assert list(files.sweep(str(tmp_path))) == [str(inner / f"{files.TEMPORARY}9-part")]
    assert os.listdir(inner) == ["part"]


def test_remote_paths_are_told_apart_and_joined_with_slashes() -> None:
    assert files.is_remote("gs://bucket/x")
    assert not files.is_remote("/a/b")
    assert files.join("gs://bucket/x/", "data", "p") == "gs://bucket/x/data/p"
