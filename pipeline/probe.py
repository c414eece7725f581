"""What the plan learns of each file, by decoders in processes of their own: fingerprint, header, and length where it must."""

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import files
from pipeline.sources import MAX_CLAIM_S, Entry
from schemas import Reason
from schemas.show import redact, valid
from transforms.contain import DecoderError, decoder, limit_s
from transforms.decode import local

FRAME_S = 0.02
"""One energy of a scan, as in `transforms.decoder`."""
TIMEOUT_S = 60.0
"""Without a sign of life for so long, a file that is being planned is given up."""
_BATCH = 32
"""Files that a decoder is asked about at once: fewer and the waiting for each other costs more than the work."""

_Place = tuple[str, int, int]
"""Of a file: its uri, and its first byte and size where it is a member of a tar."""


@dataclass(frozen=True)
class Found:
    """What was learnt of a file: its fingerprint, and its header or the reason why it has none (rate 0)."""

    fingerprint: str
    bytes: int = 0
    rate_hz: int = 0
    channels: int = 0
    duration_s: float | None = None
    fault: tuple[str, str] | None = None


def probe_all(entries: Sequence[Entry], timeout_s: float = TIMEOUT_S) -> dict[_Place, Found]:
    """Fingerprint and header of every file that `entries` name, each once, by a decoder for each core.

    A file that crashes or blocks its decoder is found out here, and the rest is not held up.
    """
    places = list({(e.uri, e.at, e.size): None for e in entries if e.fault is None})
    batches = [places[i : i + _BATCH] for i in range(0, len(places), _BATCH)]
    with ThreadPoolExecutor(max(1, min(16, len(os.sched_getaffinity(0)), len(batches)))) as pool:
        found = pool.map(functools.partial(_probe, timeout_s=timeout_s), batches)
        return dict(zip(places, itertools.chain.from_iterable(found), strict=True))


def _probe(places: Sequence[_Place], timeout_s: float) -> list[Found]:
    """Probe a batch by one decoder. Whom it dies of has no reply; the rest is asked again."""
    if any(files.is_remote(uri) for uri, _, _ in places):
        return [_probe_remote(place, timeout_s) for place in places]
    found: list[Found] = []
    while len(found) < len(places):
        left = places[len(found) :]
        limit = limit_s(timeout_s, 0.0, sum(_size(path) for path, _, _ in left))
        try:
            with decoder() as process:
                for head, _ in process.ask("probe", timeout_s=timeout_s, limit_s=limit, files=left):
                    if "file" in head:
                        found.append(_found(head))
        except DecoderError as error:
            if len(found) < len(places):
                found.append(Found(_mark(places[len(found)][0]), fault=(error.reason.value, error.detail)))
    return found


def _probe_remote(place: _Place, timeout_s: float) -> Found:
    uri, at, size = place
    try:
        with local(uri, at, size) as (path, first, length):
            found = _probe([(path, first, length)], timeout_s)[0]
    except DecoderError as error:
        return Found(_mark(uri), fault=(error.reason.value, error.detail))
    return dataclasses.replace(found, fingerprint=_remote_checksum(uri) or found.fingerprint)


def _found(reply: dict[str, Any]) -> Found:
    mark = reply.get("sha256") or _mark(reply["file"])
    if "error" in reply:
        return Found(mark, fault=tuple(reply["error"]))
    return Found(mark, reply["bytes"], reply["rate_hz"], reply["channels"], reply["duration_s"])


def _mark(uri: str) -> str:
    """The fingerprint of a file that was never read: its name stands for it."""
    return hashlib.sha256(valid(redact(uri)).encode()).hexdigest()


def _remote_checksum(uri: str) -> str:
    """The object store's own, so that a file is planned the same by whoever reads it; empty where it has none."""
    from apache_beam.io.filesystems import FileSystems

    try:
        return hashlib.sha256(str(FileSystems.checksum(uri)).encode()).hexdigest()
    except Exception:  # each store has errors of its own; reading the object will say what is wrong
        return ""


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


@dataclass(frozen=True)
class Scan:
    """How many samples a stretch has, and float32 `[T]` mean squares of its 20 ms frames."""

    samples: int
    energy: np.ndarray


def scan(entry: Entry, start: int, end: int, found: Found, timeout_s: float = TIMEOUT_S) -> Scan:
    """Decode a stretch once for how long it is and the energy of each 20 ms. Raises DecoderError."""
    seconds = min(found.duration_s or 0.0, MAX_CLAIM_S)
    with local(entry.uri, entry.at, entry.size) as (path, first, length), decoder() as process:
        limit = limit_s(timeout_s, seconds, found.bytes)
        place = {"path": path, "at": first, "size": length}
        asked = process.ask("scan", timeout_s=timeout_s, limit_s=limit, start=start, end=end, **place)
        for head, payload in asked:
            if "samples" in head:
                return Scan(head["samples"], np.frombuffer(bytes(payload), "<f4"))
    raise DecoderError(Reason.CRASHED, "the decoder gave no length")
