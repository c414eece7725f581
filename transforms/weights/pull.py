"""Bring weights by name: from the first source that answers, checked, converted, and moved into place in one step."""

import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from transforms.weights.find import MissingWeights, cache_folder, hash_path, locate, size_bytes
from transforms.weights.sources import Source, SourceError
from transforms.weights.table import Model, model

RECEIPTS = ".receipts"
"""The folder, beside the weights, of one small JSON file for each pull: where it came from and what it hashed to."""


class PullError(RuntimeError):
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
        ValueError: nothing is called so.
    """
    try:
        path: Path | None = locate(name).path
    except MissingWeights:
        path = None
    try:
        row = model(name)
    except ValueError:
        if path is None:
            raise
        return ModelInfo(name, "local weights", "not known", size_bytes(path), path)
    return ModelInfo(name, row.about, row.licence, size_bytes(path) if path else row.size_bytes, path)


def list_models() -> list[ModelInfo]:
    """Every row of the table as it stands on this machine."""
    from transforms.weights.rows import MODELS

    return [describe(name) for name in MODELS]


def pull(
    names: Iterable[str], *, into: Path | None = None, check: bool = False, say: Callable[[str], None] = print
) -> list[Path]:
    """Make the weights of these names present, and return where each lies.

    Args:
        names: rows of the table, `whisper-NAME`, or a hub's `owner/name[@revision]`.
        into: the folder to keep them in; by default the cache folder, and nothing is fetched that `locate` finds already.
        check: also hash what is already here against the table or its receipt.
        say: takes each line of progress.

    Raises:
        ValueError: an unknown name; before anything is fetched.
        PullError: no source answered, or `check` found other bytes.
    """
    rows = [model(name) for name in names]
    return [_pull_one(row, into, check, say) for row in rows]


def _pull_one(row: Model, into: Path | None, check: bool, say: Callable[[str], None]) -> Path:
    path = into / row.stored if into else describe(row.name).path
    if path is not None and path.exists():
        say(f"{row.name}: present at {path}" + (f", {_checked(row, path)}" if check else ""))
        return path
    folder = into or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for source, converter in row.sources:
        # Hidden, and in the same folder, so that the last step is one rename and nothing half-made is ever found.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as temporary:
            try:
                say(f"{row.name}: from {source.where} ...")
                made = _make(row, source, converter, Path(temporary))
            except SourceError as error:
                failures.append(f"{source.where}: {error}")
                say(f"{row.name}: not from there: {error}")
                continue
            sha256 = hash_path(made)
            if row.sha256 and sha256 != row.sha256:
                raise PullError(f"{row.name}: out of {source.where} came sha256 {sha256}, expected {row.sha256}")
            path = _move(made, folder / row.stored)
            _write_receipt(row, source, path, sha256)
            say(f"{row.name}: {size_bytes(path) / 1e6:.1f} MB at {path} ({row.licence}; sha256 {sha256[:12]})")
            return path
    raise PullError(f"{row.name}: no source answered:\n  " + "\n  ".join(failures))


def _make(row: Model, source: Source, converter: str, temporary: Path) -> Path:
    """Fetch from one source and convert. Returns the finished file or folder, inside `temporary`."""
    fetched = temporary / "fetched"
    fetched.mkdir()
    source.fetch(fetched)
    made = temporary / row.stored
    if converter:
        try:
            importlib.import_module(f"transforms.weights.convert.{converter}").convert(fetched, made)
        except (ValueError, KeyError) as error:
            raise SourceError(f"cannot be converted: {error}") from error
    elif (fetched / row.stored).is_file():
        (fetched / row.stored).rename(made)
    else:
        fetched.rename(made)
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


def _write_receipt(row: Model, source: Source, path: Path, sha256: str) -> None:
    folder = path.parent / RECEIPTS
    folder.mkdir(exist_ok=True)
    receipt = {"name": row.name, "licence": row.licence, "source": source.where, "sha256": sha256}
    draft = folder / f".{row.stored}.{os.getpid()}"
    draft.write_text(json.dumps(receipt, indent=2) + "\n")
    draft.replace(folder / f"{row.stored}.json")


def _checked(row: Model, path: Path) -> str:
    """In words, what its hash was compared with. Raises PullError where it differs."""
    receipt = path.parent / RECEIPTS / f"{row.stored}.json"
    expected, by = row.sha256, "the table"
    if not expected and receipt.is_file():
        expected, by = json.loads(receipt.read_text())["sha256"], "its receipt"
    found = hash_path(path)
    if not expected:
        return f"sha256 {found} (nothing to compare it with)"
    if found != expected:
        raise PullError(
            f"{path}: its sha256 is {found}, by {by} {expected}; remove it and run `antiphon pull {row.name}`"
        )
    return f"sha256 as {by} has it"


def run_pull(
    names: list[str],
    *,
    into: Path | None = None,
    check: bool = False,
    show: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """`antiphon pull NAME ... [--into FOLDER] [--check] [--list]`. Returns the exit status.

    Args:
        names: what to pull; with `check` and no names, everything in the table that is here.
        show: list the table instead.
    """
    if show:
        for info in list_models():
            state = str(info.path) if info.present else "missing"
            say(f"{info.name:24}{info.size_bytes / 1e6:8.1f} MB  {info.licence:14}{state}")
            say(f"    {info.about}")
        return 0
    if not names and check:
        names = [info.name for info in list_models() if info.present]
    try:
        pull(names, into=into, check=check, say=say)
    except (PullError, ValueError) as error:
        say(str(error))
        return 1
    return 0
