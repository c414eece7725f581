"""Weights by name or path: where they are looked for, in which order, and what they hash to."""

import hashlib
import os
from pathlib import Path

import pytest

from transforms.weights import MissingWeights, cache_folder, locate
from transforms.weights.find import hash_path, size_bytes


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two folders of ANTIPHON_MODELS and the cache folder, in the order of the search."""
    folders = [tmp_path / name for name in ("first", "second", "cache")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setenv("ANTIPHON_MODELS", os.pathsep.join(map(str, folders[:2])))
    monkeypatch.setenv("ANTIPHON_CACHE", str(folders[2]))
    return folders


def test_the_first_place_that_has_it_wins(places: list[Path]) -> None:
    for folder in reversed(places):
        (folder / "my-model.safetensors").write_text(folder.name)
        assert locate("my-model").path == folder / "my-model.safetensors"


def test_a_path_wins_over_every_name(places: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places[0] / "model.pt").write_text("named")
    (tmp_path / "model.pt").write_text("path")
    monkeypatch.chdir(tmp_path)
    assert locate("model.pt").path.read_text() == "path"
    assert locate(str(tmp_path / "model.pt")).path.read_text() == "path"


@pytest.mark.parametrize(
    ("name", "kept_as"),
    [
        ("whisper-tiny", "whisper-tiny.pt"),
        ("whisper-large-v3", "whisper-large-v3.pt"),
        ("silero-vad", "silero_vad.onnx"),
        ("lyra-v2", "lyra/quantizer.tflite"),
        ("owner/model", "owner--model/config.json"),
    ],
)
def test_a_name_is_found_under_what_pull_keeps_it_as(places: list[Path], name: str, kept_as: str) -> None:
    file = places[2] / kept_as
    file.parent.mkdir(exist_ok=True)
    file.write_text("x")
    assert locate(name).path == (file if file.parent == places[2] else file.parent)


def test_what_is_missing_names_the_places_and_the_command(places: list[Path]) -> None:
    with pytest.raises(MissingWeights, match="antiphon pull silero-vad") as caught:
        locate("silero-vad")
    assert all(str(folder) in str(caught.value) for folder in places)
    assert caught.value.name == "silero-vad"


def test_a_path_that_is_not_there_is_no_name_to_pull(places: list[Path]) -> None:
    with pytest.raises(MissingWeights, match=r"/no/such/model\.pt: no such file") as caught:
        locate("/no/such/model.pt")
    assert "antiphon pull" not in str(caught.value)
    with pytest.raises(ValueError, match="empty"):
        locate("")


def test_the_cache_folder_is_the_users_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTIPHON_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache/antiphon"


def test_hash_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes(b"one")
    (tmp_path / "b" / "c.txt").write_bytes(b"two")
    one, two = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()
    assert hash_path(tmp_path / "a.txt") == one
    assert hash_path(tmp_path) == hashlib.sha256(f"{one}  a.txt\n{two}  b/c.txt\n".encode()).hexdigest()
    assert size_bytes(tmp_path) == 6


def test_the_hash_follows_every_change_but_hidden_files(tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"old")
    os.utime(weights, ns=(1, 1))
    before = hash_path(tmp_path)
    (tmp_path / ".note").write_text("x")
    assert hash_path(tmp_path) == before
    weights.write_bytes(b"new")  # of the same size
    os.utime(weights, ns=(2, 2))
    assert hash_path(tmp_path) != before
    weights.write_bytes(b"old")
    weights.rename(tmp_path / "renamed.bin")
    assert hash_path(tmp_path) != before
