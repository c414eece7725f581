"""The doctor: a sound machine passes, each trap is found, and nothing stops it."""

import sys
from pathlib import Path

import pytest

from pipeline.doctor import Check, doctor, run_doctor


def find(name: str) -> Check:
    (check,) = [check for check in doctor() if check.name == name]
    return check


def test_this_machine_passes() -> None:
    said: list[str] = []
    assert run_doctor(said.append) == 0
    assert said[-1] == "nothing needs mending"
    assert {"python", "torch", "av", "npm", "cache space", "whisper-tiny"} <= {check.name for check in doctor()}


def test_a_torchaudio_that_does_not_load_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    check = find("torchaudio")
    assert not check.ok
    assert "libcudart" in check.detail
    assert str(package / "lib") in check.fix
    assert run_doctor(lambda _: None) == 1


def test_missing_weights_and_lost_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_CACHE", str(tmp_path / "not/yet"))
    monkeypatch.setenv("ANTIPHON_MODELS", str(tmp_path / "gone"))
    checks = {check.name: check for check in doctor()}
    assert checks["kokoro-82m"].fix == "antiphon pull kokoro-82m"
    assert not checks["kokoro-82m"].needed
    assert checks["cache folder"].ok  # it can be made
    assert str(tmp_path / "gone") in checks["ANTIPHON_MODELS"].detail
    assert not (tmp_path / "not").exists()


def test_a_cache_that_is_no_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("ANTIPHON_CACHE", str(tmp_path / "file"))
    check = find("cache folder")
    assert not check.ok
    assert "ANTIPHON_CACHE" in check.fix


def test_what_a_killed_pull_left_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_CACHE", str(tmp_path))
    (tmp_path / ".pull-abc").mkdir()
    assert str(tmp_path / ".pull-abc") in find("cache left-overs").fix
