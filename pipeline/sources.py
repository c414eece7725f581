"""What the config's `sources` name: files, folders, globs, JSONL manifests and tars, as a sorted list of entries."""

import glob
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from pipeline import files
from pipeline.tars import read_tar
from schemas import Reason
from schemas.errors import UserError
from schemas.show import redact, show, valid, valid_all

_NAMES = "wav flac mp3 ogg oga opus m4a aac mp4 webm mkv mka mov avi wma aiff aif au amr w64 caf"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
"""What a folder is searched for. A file that is named outright, by a glob or by a manifest may be called anything."""

MAX_CLAIM_S = 7 * 24 * 3600.0
"""No header and no manifest is believed that claims a longer recording."""

_MANIFEST_AUDIO = ("audio", "audio_filepath", "path")


class SourceError(UserError):
    """Sources that cannot be used; the message has a line for each mistake."""


@dataclass(frozen=True)
class Entry:
    """One stretch of one file.

    Attributes:
        source: the name its rows carry: the path as the config gives it (without credentials, and with bytes that are not
            UTF-8 written as `\\xff`), or the manifest's `id`.
        uri: where the bytes are. recording: what a split never divides: the file, as the config or the manifest calls it.
        offset_s, duration_s: the stretch; None for from the start, to the end.
        given: the manifest's other fields.
        at, size, fault: of a tar's member, as in `schemas.Piece`.
    """

    source: str
    uri: str
    recording: str
    offset_s: float | None = None
    duration_s: float | None = None
    given: dict[str, Any] = field(default_factory=dict)
    at: int = 0
    size: int = -1
    fault: tuple[str, str] | None = None


def find_sources(sources: Sequence[str]) -> list[Entry]:
    """All entries, sorted by name and offset, whatever the order of `sources` or of the folders.

    Symbolic links to files are taken, links to folders are not followed (they may lead round in circles). A manifest's
    missing audio file is no mistake here: `decode` rejects it, and the run goes on.

    Raises SourceError, with every mistake: a path or glob that matches nothing, a manifest line that is not JSON, has no
    audio or has a wrong number, two entries of the same name and offset.
    """
    mistakes: list[str] = []
    found: list[Entry] = []
    if not sources:
        mistakes.append("sources is empty: name files, folders, globs, .jsonl manifests or .tar files")
    for source in sources:
        matched = _match(source, mistakes)
        if not matched:
            hint = "; the folder has .tar files: name them, as in folder/*.tar" if _has_tars(source) else ""
            mistakes.append(f"{show(source)}: nothing there{hint}")
        for path in matched:
            if path.endswith(".jsonl"):
                found += _manifest(path, mistakes)
            elif path.endswith(".tar"):
                found += _tar(path, mistakes)
            else:
                name = valid(redact(path))
                found.append(Entry(name, path, name))
    found.sort(key=lambda e: (e.source, e.offset_s or 0.0, e.uri, e.at))
    for one, other in itertools.pairwise(found):
        if (one.source, one.offset_s or 0.0) == (other.source, other.offset_s or 0.0):
            if one == other:
                mistakes.append(f"{show(one.source)}: named twice in sources")
            else:
                uris = f"{show(one.uri)}, {show(other.uri)}"
                mistakes.append(f"{show(one.source)}: two manifest lines have this id and offset ({uris})")
    if mistakes:
        raise SourceError("\n".join(mistakes))
    return found


def _match(source: str, mistakes: list[str]) -> list[str]:
    """Paths of a file, of the audio files below a folder, or of a glob; sorted."""
    if files.is_remote(source):
        try:
            return _match_remote(source)
        except Exception as error:  # each store has errors of its own
            mistakes.append(f"{show(source)}: {type(error).__name__}: {show(str(error))}")
            return [source] if source.endswith((".jsonl", ".tar")) else []
    if os.path.isdir(source):
        return sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(source)
            for name in names
            if os.path.splitext(name)[1].lower() in SUFFIXES
        )
    if os.path.lexists(source):
        return [source]
    return sorted(p for p in glob.glob(source, recursive=True) if not os.path.isdir(p))


def _match_remote(source: str) -> list[str]:
    from apache_beam.io.filesystems import FileSystems

    patterns = [source] if "*" in source or "?" in source else [source, source.rstrip("/") + "/**"]
    found = {m.path for result in FileSystems.match(patterns) for m in result.metadata_list}
    if source not in found and not set("*?") & set(source):
        found = {path for path in found if os.path.splitext(path)[1].lower() in SUFFIXES}
    return sorted(found)


def _has_tars(source: str) -> bool:
    return os.path.isdir(source) and any(name.endswith(".tar") for name in os.listdir(source))


def _manifest(path: str, mistakes: list[str]) -> Iterator[Entry]:
    folder = path.rpartition("/")[0]
    try:
        text = _read_regular(path).decode("utf-8", errors="replace")
    except OSError as error:
        mistakes.append(f"{show(path)}: {error.strerror or error}")
        return
    # JSON may hold U+2028 and other characters that `splitlines` takes for the end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{show(path)}:{number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            mistakes.append(f"{where}: not JSON: {error}")
            continue
        name = (
            next((fields[key] for key in _MANIFEST_AUDIO if key in fields), None) if isinstance(fields, dict) else None
        )
        if not isinstance(name, str) or not name:
            mistakes.append(f"{where}: no audio: give the file as {' or '.join(map(repr, _MANIFEST_AUDIO))}")
            continue
        uri = name if files.is_remote(name) or os.path.isabs(name) else (f"{folder}/{name}" if folder else name)
        offset_s, duration_s, given, wrong = _fields(fields)
        mistakes += [f"{where}: {words}" for words in wrong]
        recording = valid(redact(uri))
        yield Entry(_id(fields) or recording, uri, recording, offset_s, duration_s, given)


def _tar(path: str, mistakes: list[str]) -> Iterator[Entry]:
    """The samples of a tar; what is wrong with one is a fault of that one, which decode rejects."""
    own = valid(redact(path))
    try:
        with _open_regular(path) as stream:
            samples = list(read_tar(path, stream, SUFFIXES, mistakes))
    except OSError as error:
        yield Entry(own, path, own, fault=(Reason.MISSING.value, error.strerror or str(error)))
        return
    for sample in samples:
        name = f"{own}/{valid(sample.name)}" if sample.name else own
        offset_s, duration_s, given, wrong = _fields(sample.fields)
        fault = sample.fault or ((Reason.UNREADABLE.value, "; ".join(wrong)) if wrong else None)
        yield Entry(_id(sample.fields) or name, path, name, offset_s, duration_s, given, sample.at, sample.size, fault)


def _id(fields: dict[str, Any]) -> str:
    return valid(redact(str(fields.get("id") or "")))


def _fields(fields: dict[str, Any]) -> tuple[float | None, float | None, dict[str, Any], list[str]]:
    """Offset, duration, the other fields, and what is wrong with any of them, of a manifest line or a tar's `.json`."""
    wrong = []
    numbers: dict[str, float | None] = {}
    for key in ("offset", "duration"):
        value = fields.get(key)
        right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_CLAIM_S
        if value is not None and not right:
            wrong.append(f"{key} is {value!r:.80}, not seconds from 0 up to a week")
        numbers[key] = float(value) if right and value is not None else None
    turn = fields.get("turn")
    if turn is not None and not (isinstance(turn, int) and 0 <= turn < 2**31):
        wrong.append(f"turn is {turn!r:.80}, not a whole number from 0 up")
    names = (*_MANIFEST_AUDIO, "id", "offset", "duration")
    given = valid_all({key: value for key, value in fields.items() if key not in names})
    return numbers["offset"], numbers["duration"], given, wrong


def _open_regular(path: str) -> IO[bytes]:
    """A file opened for reading; never waits for a pipe. Raises OSError."""
    if files.is_remote(path):
        from apache_beam.io.filesystems import FileSystems

        try:
            stream: IO[bytes] = FileSystems.open(path, compression_type="uncompressed")
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {show(str(error))}") from None
        return stream
    if not os.path.isfile(path):
        os.stat(path)  # for the system's own words, where nothing is there
        raise OSError("not a file")
    return open(path, "rb")


def _read_regular(path: str) -> bytes:
    with _open_regular(path) as stream:
        return stream.read()
