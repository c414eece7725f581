"""What the config's `sources` name: files, folders, globs and JSONL manifests, as a sorted list of entries."""

import glob
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import files
from schemas.errors import UserError

_NAMES = "wav flac mp3 ogg oga opus m4a aac mp4 webm mkv mka mov avi wma aiff aif au amr w64 caf"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
"""What a folder is searched for. A file that is named outright, by a glob or by a manifest may be called anything."""

_MANIFEST_AUDIO = ("audio", "audio_filepath", "path")


class SourceError(UserError):
    """Sources that cannot be used; the message has a line for each mistake."""


@dataclass(frozen=True)
class Entry:
    """One stretch of one file.

    Attributes:
        source: the name its rows carry: the path as the config gives it, or the manifest's `id`.
        uri: where the bytes are. recording: what a split never divides: the file, as the config or the manifest calls it.
        offset_s, duration_s: the stretch; None for from the start, to the end.
        given: the manifest's other fields.
    """

    source: str
    uri: str
    recording: str
    offset_s: float | None = None
    duration_s: float | None = None
    given: dict[str, Any] = field(default_factory=dict)


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
        mistakes.append("sources is empty: name files, folders, globs or .jsonl manifests")
    for source in sources:
        matched = _match(source)
        if not matched:
            mistakes.append(f"{source}: nothing there")
        for path in matched:
            if path.endswith(".jsonl"):
                found += _manifest(path, mistakes)
            else:
                found.append(Entry(path, path, path))
    found.sort(key=lambda e: (e.source, e.offset_s or 0.0, e.uri))
    for one, other in itertools.pairwise(found):
        if (one.source, one.offset_s or 0.0) == (other.source, other.offset_s or 0.0):
            if one == other:
                mistakes.append(f"{one.source}: named twice in sources")
            else:
                mistakes.append(f"{one.source}: two manifest lines have this id and offset ({one.uri}, {other.uri})")
    if mistakes:
        raise SourceError("\n".join(mistakes))
    return found


def _match(source: str) -> list[str]:
    """Paths of a file, of the audio files below a folder, or of a glob; sorted."""
    if files.is_remote(source):
        return _match_remote(source)
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


def _manifest(path: str, mistakes: list[str]) -> Iterator[Entry]:
    folder = path.rpartition("/")[0]
    for number, line in enumerate(files.read(path).decode("utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            fields = json.loads(line)
        except ValueError as error:
            mistakes.append(f"{where}: not JSON: {error}")
            continue
        name = (
            next((fields[key] for key in _MANIFEST_AUDIO if key in fields), None) if isinstance(fields, dict) else None
        )
        if not isinstance(name, str) or not name:
            mistakes.append(f"{where}: no audio: give the file as {' or '.join(map(repr, _MANIFEST_AUDIO))}")
            continue
        numbers: dict[str, float | None] = {}
        for key in ("offset", "duration"):
            value = fields.get(key)
            right = isinstance(value, int | float) and math.isfinite(value) and value >= 0
            if value is not None and not right:
                mistakes.append(f"{where}: {key} is {value!r}, not seconds from 0 up")
            numbers[key] = float(value) if right and value is not None else None
        uri = name if files.is_remote(name) or os.path.isabs(name) else (f"{folder}/{name}" if folder else name)
        given = {k: v for k, v in fields.items() if k not in (*_MANIFEST_AUDIO, "id", "offset", "duration")}
        yield Entry(str(fields.get("id") or uri), uri, uri, numbers["offset"], numbers["duration"], given)
