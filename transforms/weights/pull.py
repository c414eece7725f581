"""Bring weights by name: from the first source that answers, checked, converted, and moved into place in one step."""

import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import UserError
from transforms.weights.find import MissingWeights, cache_folder, hash_path, locate, size_bytes
from transforms.weights.sources import Source, SourceError
from transforms.weights.table import Model, UnknownWeights, model

RECEIPTS = ".receipts"
"""The folder, beside the weights, of one small JSON file for each pull: where it came from and what it hashed to."""


DRAFT_PREFIX = ".pull-"
"""Of the folders that a pull works in. One is left only where a pull was killed outright."""


class PullError(UserError):
    """No source of some weights answered with the right bytes. The message gives each one's reason."""


@dataclass(frozen=True)
class ModelInfo:
    """A row of the table as it stands on this machine."""

    name: str
    about: str
    licence: str
    size_bytes: int
    """Of the files on this machine; of what a pull would bring where they are missing (0: not known)."""
    path: Path | None
    """None where it is missing."""

    @property
    def present(self) -> bool:
        return self.path is not None


def describe(name: str) -> ModelInfo:
    """What the weights called `name` are, how large, and whether they are here. Takes the names that `pull` takes, and paths.

    Raises:
        UnknownWeights: nothing is called so.
    """
    try:
        path: Path | None = locate(name).path
    except MissingWeights:
        path = None
    try:
        row = model(name)
    except UnknownWeights:
        if path is None:
            raise
        return ModelInfo(name, "local weights", "not known", size_bytes(path), path)
    return ModelInfo(name, row.about, row.licence, size_bytes(path) if path else row.size_bytes, path)


def list_models() -> list[ModelInfo]:
    """Every row of the table as it stands on this machine."""
    from transforms.weights.rows import MODELS

    return [describe(name) for name in MODELS]


def pull(names: Iterable[str], *, into: Path | None = None, say: Callable[[str], None] = print) -> list[Path]:
    """Make the weights of these names present, and return where each lies.

    Args:
        names: rows of the table, `whisper-NAME`, or a hub's `owner/name[@revision]`.
        into: the folder to keep them in; by default the cache folder, and nothing is fetched that `locate` finds already.
        say: takes each line of progress.

    Raises:
        UnknownWeights: before anything is fetched.
        PullError: no source of some of them answered; the others are there all the same.
    """
    paths, failures = [], []
    for row in [model(name) for name in names]:
        try:
            paths.append(_pull_one(row, into, say))
        except PullError as error:
            failures.append(str(error))
    if failures:
        raise PullError("\n".join(failures))
    return paths


def verify(name: str) -> str:
    """Hash weights that are here and compare them with the table or the receipt of their pull. Returns the result in words.

    Raises:
        MissingWeights: they are not here.
        PullError: they hold other bytes.
    """
    row, path = model(name), locate(name).path
    receipt = _receipt(path)
    expected, by = row.sha256, "the table"
    if not expected and receipt.is_file():
        expected, by = json.loads(receipt.read_text())["sha256"], "its receipt"
    found = hash_path(path)
    if expected and found != expected:
        raise PullError(f"{path}: its sha256 is {found}, by {by} {expected}; remove it and run `antiphon pull {name}`")
    return f"{name}: {path}, sha256 {found}, " + (f"as {by} has it" if expected else "nothing to compare it with")


def _pull_one(row: Model, into: Path | None, say: Callable[[str], None]) -> Path:
    path = into / row.stored if into else describe(row.name).path
    if path is not None and path.exists():
        say(f"{row.name}: present at {path}")
        return path
    folder = into or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for source, converter in row.sources:
        # Hidden, and in the same folder, so that the last step is one rename and nothing half-made is ever found.
        with tempfile.TemporaryDirectory(dir=folder, prefix=DRAFT_PREFIX) as temporary:
            try:
                say(f"{row.name}: from {source.where} ...")
                made = _make(row, source, converter, Path(temporary))
            except SourceError as error:
                failures.append(f"{source.where}: {error}")
                say(f"{row.name}: not from there: {error}")
                continue
            path = _move(made, folder / row.stored)
        sha256 = _write_receipt(row, source, path)
        say(f"{row.name}: {size_bytes(path) / 1e6:.1f} MB at {path} ({row.licence}; sha256 {sha256[:12]})")
        return path
    raise PullError(f"{row.name}: no source answered with it:\n  " + "\n  ".join(failures))


def _make(row: Model, source: Source, converter: str, temporary: Path) -> Path:
    """Fetch from one source and convert. Returns the finished file or folder, inside `temporary`."""
    fetched = temporary / "fetched"
    fetched.mkdir()
    source.fetch(fetched)
    made = temporary / row.stored
    if converter:
        try:
            importlib.import_module(f"transforms.weights.convert.{converter}").convert(fetched, made)
        except Exception as error:  # whatever is wrong with this source's file, the next one may be right
            raise SourceError(f"cannot be converted: {type(error).__name__}: {error}") from error
    elif (fetched / row.stored).is_file():
        (fetched / row.stored).rename(made)
    else:
        fetched.rename(made)
    if row.sha256 and hash_path(made) != row.sha256:
        raise SourceError(f"made a {row.stored} of sha256 {hash_path(made)}, expected {row.sha256}")
    return made


def _move(made: Path, target: Path) -> Path:
    """Rename what is finished to its place. Where another process was faster, its result stands."""
    for path in (made, *made.rglob("*")):
        path.chmod(
            0o755 if path.is_dir() else 0o644
        )  # some writers keep their files to one user; a cluster shares them
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise
    return target


def _write_receipt(row: Model, source: Source, path: Path) -> str:
    receipt, sha256 = _receipt(path), hash_path(path)
    receipt.parent.mkdir(exist_ok=True)
    draft = receipt.with_name(f".{receipt.name}.{os.getpid()}")
    about = {"name": row.name, "licence": row.licence, "source": source.where, "sha256": sha256}
    draft.write_text(json.dumps(about, indent=2) + "\n")
    draft.replace(receipt)
    return sha256


def _receipt(path: Path) -> Path:
    return path.parent / RECEIPTS / f"{path.name}.json"
