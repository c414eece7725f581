"""Which audio is in which Block: decided from the sources alone, before any runner starts."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from pydantic import Field

from pipeline.probe import FRAME_S, TIMEOUT_S, Found, Scan, probe_all, scan
from pipeline.sources import MAX_CLAIM_S, Entry
from schemas import Block, Piece
from schemas.show import redact_all
from transforms.contain import DecoderError
from transforms.options import Options
from transforms.segment import TEXT_S

_SMOOTH_FRAMES = 10
_SEARCH_S = 15.0
_LONG = 1.5
"""A recording is cut where it is longer than this many blocks; shorter ones stay whole."""
_WHOLE_S = 30.0
"""An entry with a text of its own stays whole up to here, however small the blocks."""


class PlanOptions(Options):
    """How the job is divided. A change here moves audio between shards, so everything is made again."""

    block_s: float = Field(300.0, gt=0)
    """Seconds of audio in a block, about: one block is one shard, and the unit of commit, memory and retry."""
    heldout_share: float = Field(0.05, ge=0, lt=1)
    """Share of the recordings kept out of training (`split` = heldout), by a hash of their names. A manifest's `split` wins."""


def make_plan(
    entries: Sequence[Entry], options: PlanOptions, *, rate_hz: int, timeout_s: float = TIMEOUT_S
) -> list[Block]:
    """Blocks of about `block_s` seconds, from entries sorted by name. Reads every file once, for its fingerprint.

    A file whose header does not read is planned with what the manifest says of its length and with its fault; `decode`
    rejects it. One whose header says no length, or one that cannot be, is decoded once for it.
    `piece.given["split"]` says train or heldout. Where there are two recordings or more and a share is to be held out, at
    least one is: the one whose hash is smallest.
    """
    kept_out = heldout({e.recording for e in entries}, options.heldout_share)
    headers = probe_all(entries, timeout_s)
    blocks: list[Block] = []
    filled_s = 0.0
    for entry in entries:
        split = "heldout" if entry.recording in kept_out else "train"
        pieces = list(_pieces(entry, headers.get((entry.uri, entry.at, entry.size)), options.block_s, timeout_s))
        for piece in pieces:
            piece.given = {"split": split} | entry.given
            if len(pieces) > 1 and entry.given.get("text"):
                piece.given[TEXT_S] = sum(p.declared_s for p in pieces)
            if not blocks or (filled_s and filled_s + piece.declared_s > options.block_s):
                blocks.append(Block(len(blocks), rate_hz))
                filled_s = 0.0
            blocks[-1].pieces.append(piece)
            filled_s += piece.declared_s
    return blocks


def heldout(recordings: set[str], share: float) -> set[str]:
    """The recordings kept out of training: those whose hash falls under `share`, and one of several where none does."""
    shares = {r: int(hashlib.sha256(r.encode()).hexdigest()[:8], 16) / 2**32 for r in recordings}
    found = {r for r, value in shares.items() if value < share}
    if not found and share > 0 and len(recordings) > 1:
        found = {min(sorted(recordings), key=shares.__getitem__)}
    return found


def _pieces(entry: Entry, found: Found | None, block_s: float, timeout_s: float) -> Iterator[Piece]:
    """The pieces of one entry: one, or several where it is longer than `_LONG` blocks."""
    fault = entry.fault or (found.fault if found else None)
    if found is None or fault is not None:
        mark = found.fingerprint if found else hashlib.sha256(f"{entry.source}: {fault}".encode()).hexdigest()
        yield _piece(entry, mark, 0, 0, -1, entry.duration_s or 0.0, fault)
        return
    mark, rate_hz = found.fingerprint, found.rate_hz
    start = round((entry.offset_s or 0.0) * rate_hz)
    end = -1 if entry.duration_s is None else start + round(entry.duration_s * rate_hz)
    total_s = found.duration_s if _believable(found) else None
    scanned: Scan | None = None
    try:
        if entry.duration_s is not None:
            declared_s = entry.duration_s
        else:
            if total_s is None:
                scanned = scan(entry, start, end, found, timeout_s)
                total_s = (start + scanned.samples) / rate_hz
            declared_s = max(0.0, total_s - start / rate_hz)
        if declared_s <= max(_LONG * block_s, _WHOLE_S if entry.given.get("text") else 0.0):
            yield _piece(entry, mark, rate_hz, start, end, declared_s)
            return
        scanned = scanned or scan(entry, start, end, found, timeout_s)
    except DecoderError as error:
        yield _piece(entry, mark, 0, 0, -1, total_s or 0.0, (error.reason.value, error.detail))
        return
    cuts = [start + cut for cut in quiet_cuts(scanned.energy, rate_hz, block_s)]
    for a, b in zip([start, *cuts], [*cuts, end], strict=True):
        seconds = (b - a) / rate_hz if b >= 0 else max(0.0, start / rate_hz + declared_s - a / rate_hz)
        yield _piece(entry, mark, rate_hz, a, b, seconds)


def _piece(
    entry: Entry, mark: str, rate_hz: int, start: int, end: int, seconds: float, fault: tuple[str, str] | None = None
) -> Piece:
    place = {"at": entry.at, "size": entry.size}
    return Piece(entry.source, entry.uri, mark, rate_hz, start, end, seconds, fault=fault, **place)  # type: ignore[arg-type]


def _believable(found: Found) -> bool:
    """False where a header claims no length, a week and more, or so little that its bytes would be more than samples need."""
    claim_s = found.duration_s
    if claim_s is None or claim_s > MAX_CLAIM_S:
        return False
    raw = found.rate_hz * found.channels * 8  # float64, the widest there is
    return found.bytes <= max(1 << 25, 4 * raw * claim_s)  # pictures and tags, a film beside its sound


def quiet_cuts(energy: np.ndarray, rate_hz: int, block_s: float) -> list[int]:
    """Samples at which to cut a long recording: the quietest 0.2 s within 15 s of each multiple of `block_s`.

    Args:
        energy: `[T]`, mean squares of 20 ms each.
    """
    hop = max(1, round(FRAME_S * rate_hz))
    parts = max(1, round(len(energy) * FRAME_S / block_s))
    if parts == 1 or len(energy) < _SMOOTH_FRAMES:
        return []
    smooth = np.convolve(energy, np.ones(_SMOOTH_FRAMES) / _SMOOTH_FRAMES, mode="same")
    reach = min(round(_SEARCH_S / FRAME_S), len(energy) // parts // 3)
    cuts = []
    for k in range(1, parts):
        middle = round(k * len(energy) / parts)
        quietest = middle - reach + int(np.argmin(smooth[middle - reach : middle + reach]))
        cuts.append(quietest * hop)
    return cuts


def write_plan(blocks: Iterable[Block]) -> str:
    """`plan.jsonl`: one line a block, without the credentials that an address may carry."""
    lines = []
    for block in blocks:
        seconds = sum(piece.declared_s for piece in block.pieces)
        line = {"block": block.name, "index": block.index, "rate_hz": block.rate_hz, "seconds": round(seconds, 3)}
        line |= {"pieces": redact_all([piece.plan() for piece in block.pieces])}
        text = json.dumps(line, ensure_ascii=False)
        # A file name may hold bytes that are not UTF-8, or codes that a terminal would obey.
        lines.append((text if text.isprintable() else json.dumps(line)) + "\n")
    return "".join(lines)


def read_plan(text: str) -> list[Block]:
    """The inverse of `write_plan`."""
    rows = [json.loads(line) for line in text.split("\n") if line]
    for row in rows:
        for piece in row["pieces"]:
            piece["fault"] = tuple(piece["fault"]) if piece.get("fault") else None
    return [Block(row["index"], row["rate_hz"], [Piece(**piece) for piece in row["pieces"]]) for row in rows]
