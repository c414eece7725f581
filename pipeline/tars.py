"""WebDataset tars as sources: each sample's audio is read where it lies, by offset; nothing is ever unpacked.

A sample is all members with the same key: the name up to the first dot of its last part (webdataset's rule). Its audio member is
the source, its `.txt` the text, its `.json` the fields that a manifest line would have. A member's name is only ever a
name: `../x.wav` and `/x.wav` lead nowhere, since nothing is written.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from schemas import Reason
from schemas.show import show

_SIDE_BYTES = 1 << 20
"""A `.txt` or `.json` larger than this is no transcript."""
_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".gz")


@dataclass
class Sample:
    """One key of a tar.

    Attributes:
        name: of its audio member. at, size: where that lies. fields: of its `.json` and `.txt`.
        fault: reason and detail, where it cannot be used.
    """

    name: str
    at: int = 0
    size: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    fault: tuple[str, str] | None = None


def read_tar(path: str, stream: IO[bytes], suffixes: frozenset[str], mistakes: list[str]) -> Iterator[Sample]:
    """The samples of an open tar, in order of their audio members.

    What is wrong with the archive as a whole, such as a torn end, comes as a last Sample of the archive's own name with a
    fault. Two members of one name, or two audio members of one key, are added to `mistakes`: which one is meant, only a
    person knows.

    Args:
        suffixes: of audio, such as `.wav`, in lower case.
    """
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    samples: dict[str, Sample] = {}
    sides: dict[str, dict[str, Any]] = {}
    audio: dict[str, str] = {}
    seen: set[str] = set()
    fault, after = "", 0
    try:
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115
        for member in archive:
            after = member.offset_data + -(-member.size // 512) * 512
            if member.isdir():
                continue
            if member.name in seen:
                mistakes.append(f"{show(path)}: two members are called {show(member.name)}")
                continue
            seen.add(member.name)
            key, suffix = split_key(member.name)
            if suffix in (".txt", ".json"):
                _side(archive, member, suffix, sides.setdefault(key, {}))
            elif suffix.endswith(_ARCHIVES):
                words = "an archive inside the tar is not opened; put its files into the tar itself"
                samples[member.name] = Sample(member.name, fault=(Reason.UNREADABLE.value, words))
            elif "." + suffix.rpartition(".")[2] in suffixes:
                if key in audio:
                    names = f"{show(audio[key])} and {show(member.name)}"
                    mistakes.append(f"{show(path)}: two audio members have the key {show(key)!r}: {names}")
                    continue
                audio[key] = member.name
                samples[member.name] = _sample(member, end)
        if after + 512 > end or stream.seek(after) != after or any(stream.read(512)):
            fault = f"the tar breaks off after {len(seen)} members, at byte {min(after, end)} of {end}"
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        fault = f"the tar breaks off after {len(seen)} members, at byte {min(after, end)} of {end}: {error}"
        fault = fault if seen else f"not a tar that can be read in place (compressed, torn or none at all): {error}"
    for key, name in audio.items():
        side = sides.get(key, {})
        samples[name].fields = side
        samples[name].fault = samples[name].fault or side.pop("fault", None)
    yield from samples.values()
    if fault:
        yield Sample("", fault=(Reason.UNREADABLE.value if not seen else Reason.CORRUPT.value, fault))
    elif not samples:
        yield Sample("", fault=(Reason.NO_AUDIO.value, "no member of the tar is audio"))


def split_key(name: str) -> tuple[str, str]:
    """`a/b.c/d.seg1.wav` -> (`a/b.c/d`, `.seg1.wav`), the suffix in lower case."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def _sample(member: tarfile.TarInfo, end: int) -> Sample:
    if not member.isreg() or member.issparse():
        kind = "a link, which is not followed" if member.issym() or member.islnk() else "not a plain file"
        return Sample(member.name, fault=(Reason.MISSING.value, f"the member is {kind}"))
    return Sample(member.name, member.offset_data, max(0, min(member.size, end - member.offset_data)))


def _side(archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, fields: dict[str, Any]) -> None:
    """Add what a `.txt` or `.json` says to `fields`; what cannot be read becomes its `fault`."""

    def wrong(words: str) -> None:
        fields["fault"] = (Reason.UNREADABLE.value, f"{member.name}: {words}")

    opened = archive.extractfile(member) if member.isreg() else None
    if opened is None or member.size > _SIDE_BYTES:
        return wrong("not a plain file of up to 1 MB")
    text = opened.read().decode("utf-8", errors="replace")
    if suffix == ".txt":
        fields["text"] = text.strip()
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return wrong(f"not JSON: {error}")
    if not isinstance(found, dict):
        return wrong("not a JSON object")
    for name, value in found.items():
        fields.setdefault(name, value)
    return None
