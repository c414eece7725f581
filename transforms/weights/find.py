"""Where a model's weights lie on this machine, and what they hash to. Nothing here reaches for the network."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from schemas.errors import UserError
from transforms.weights.table import UnknownWeights, model, stored_name

_SUFFIXES = ("", ".safetensors", ".pt", ".onnx", ".npz")


class MissingWeights(UserError):
    """Weights that a stage asks for are not on this machine. The message names the command that brings them."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Weight:
    """A model's weights: one file, or a folder of files that belong together."""

    name: str
    path: Path

    @property
    def sha256(self) -> str:
        """The file's SHA-256; of a folder, see `hash_path`. Read once a process for each state of the files."""
        return hash_path(self.path)


def locate(name: str) -> Weight:
    """The weights called `name`, or the file or folder at that path.

    A string that exists as a file or folder is taken as a path. A name is looked for in each folder of ANTIPHON_MODELS,
    then in the cache folder, then among the weights that come with this project.

    Raises:
        MissingWeights: with the places that were searched and the command that brings the weights.
    """
    if not name:
        raise ValueError("weights need a name or a path, and got an empty string")
    path = Path(name).expanduser()
    if path.exists():
        return Weight(name, path)
    for folder in search_folders():
        for suffix in _SUFFIXES:
            path = folder / (stored_name(name) + suffix)
            if path.exists():
                return Weight(name, path)
    places = ", ".join(map(str, search_folders()))
    try:
        model(name)
    except UnknownWeights as error:
        raise MissingWeights(name, f"{name}: no such file or folder, nor in {places}; and {error}") from None
    raise MissingWeights(name, f"{name}: no such weights in {places}; bring them with `antiphon pull {name}`")


def search_folders() -> list[Path]:
    """The folders that names are looked up in, first one first."""
    named = [Path(part).expanduser() for part in os.environ.get("ANTIPHON_MODELS", "").split(os.pathsep) if part]
    return [*named, cache_folder(), Path(__file__).resolve().parent.parent / "embedded"]


def cache_folder() -> Path:
    """Where pulled weights are kept: ANTIPHON_CACHE, or ~/.cache/antiphon."""
    return Path(os.environ.get("ANTIPHON_CACHE") or "~/.cache/antiphon").expanduser()


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder: over the sorted lines "name, two spaces, sha256 of that file" of all its files.

    The form of a line is that of `sha256sum`, so a folder's hash can be had in a shell as well.
    """
    if path.is_file():
        return _hash_file_once(path)
    lines = (f"{_hash_file_once(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size_bytes(path: Path) -> int:
    """The size of a file, or of all files in a folder, in bytes."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in _files(path))


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder, however deep, by their names. Hidden ones (a tool's own notes) are no part of the weights."""
    files = (file for file in folder.rglob("*") if file.is_file())
    shown = (file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return iter(sorted(shown, key=lambda file: file.relative_to(folder).as_posix()))


def _hash_file_once(path: Path) -> str:
    status = path.stat()
    return _hash_file(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_file(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
