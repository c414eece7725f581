"""Which audio is in which Block: decided from the sources alone, before any runner starts."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from pydantic import Field

from pipeline import files
from pipeline.sources import Entry
from schemas import Block, Piece
from transforms.options import Options

_FRAME_S = 0.02
_SMOOTH_FRAMES = 10
_SEARCH_S = 15.0
_LONG = 1.5
"""A recording is cut where it is longer than this many blocks; shorter ones stay whole."""


class PlanOptions(Options):
    """How the job is divided. A change here moves audio between shards, so everything is made again."""

    block_s: float = Field(300.0, gt=0)
    """Seconds of audio in a block, about: one block is one shard, and the unit of commit, memory and retry."""
    heldout_share: float = Field(0.05, ge=0, lt=1)
    """Share of the recordings kept out of training (`split` = heldout), by a hash of their names. A manifest's `split` wins."""


def make_plan(entries: Sequence[Entry], options: PlanOptions, *, rate_hz: int) -> list[Block]:
    """Blocks of about `block_s` seconds, from entries sorted by name. Reads every file once, for its fingerprint.

    A file whose header does not read is planned with what the manifest says of its length; `decode` rejects it by name.
    `piece.given["split"]` says train or heldout. Where there are two recordings or more and a share is to be held out, at
    least one is: the one whose hash is smallest.
    """
    kept_out = heldout({e.recording for e in entries}, options.heldout_share)
    blocks: list[Block] = []
    filled_s = 0.0
    for entry in entries:
        split = "heldout" if entry.recording in kept_out else "train"
        for piece in _pieces(entry, options.block_s):
            piece.given = {"split": split} | entry.given
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


def _pieces(entry: Entry, block_s: float) -> Iterator[Piece]:
    """The pieces of one entry: one, or several where it is longer than `_LONG` blocks."""
    import av

    from transforms.audio import NoAudioStream, probe

    try:
        fingerprint = _fingerprint(entry.uri)
        header = probe(entry.uri if not files.is_remote(entry.uri) else io.BytesIO(files.read(entry.uri)))
    except (av.error.FFmpegError, OSError, ValueError, NoAudioStream) as error:
        # Decode will say precisely what is wrong.
        mark = hashlib.sha256(f"{entry.uri}: {type(error).__name__}".encode()).hexdigest()
        yield Piece(entry.source, entry.uri, mark, declared_s=entry.duration_s or 0.0)
        return
    start = round((entry.offset_s or 0.0) * header.rate_hz)
    end = -1 if entry.duration_s is None else start + round(entry.duration_s * header.rate_hz)
    total_s = header.duration_s or 0.0
    declared_s = entry.duration_s if entry.duration_s is not None else max(0.0, total_s - start / header.rate_hz)
    if declared_s <= _LONG * block_s:
        yield Piece(entry.source, entry.uri, fingerprint, header.rate_hz, start, end, declared_s)
        return
    cuts = quiet_cuts(entry.uri, header.rate_hz, start, end, block_s)
    for a, b in zip([start, *cuts], [*cuts, end], strict=True):
        seconds = (
            (b - a) / header.rate_hz if b >= 0 else max(0.0, start / header.rate_hz + declared_s - a / header.rate_hz)
        )
        yield Piece(entry.source, entry.uri, fingerprint, header.rate_hz, a, b, seconds)


def _fingerprint(uri: str) -> str:
    """sha256 of the bytes: reading them costs far less than decoding them, and a copied or touched file stays the same."""
    if files.is_remote(uri):
        from apache_beam.io.filesystems import FileSystems

        checksum = FileSystems.checksum(uri)  # the object store keeps one; nothing is downloaded
        return hashlib.sha256(str(checksum).encode()).hexdigest()
    with open(uri, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def quiet_cuts(uri: str, rate_hz: int, start: int, end: int, block_s: float) -> list[int]:
    """Samples at which to cut a long recording: the quietest 0.2 s within 15 s of each multiple of `block_s`.

    Decodes the whole stretch once, a packet at a time; memory is one number for 20 ms of audio.
    """
    from transforms.audio import chunks

    hop = max(1, round(_FRAME_S * rate_hz))
    energies: list[np.ndarray] = []
    rest = np.zeros(0, np.float32)
    source = uri if not files.is_remote(uri) else io.BytesIO(files.read(uri))
    for position, _, samples, _ in chunks(source, start):
        first = max(0, start - position)
        last = samples.shape[1] if end < 0 else max(0, min(samples.shape[1], end - position))
        if first < last:
            rest = np.concatenate([rest, samples[:, first:last].mean(axis=0)])
            whole = len(rest) // hop
            energies.append(np.square(rest[: whole * hop].reshape(whole, hop)).mean(axis=1))
            rest = rest[whole * hop :]
        if 0 <= end <= position:
            break
    energy = np.concatenate(energies) if energies else np.zeros(0, np.float32)
    parts = max(1, round(len(energy) * _FRAME_S / block_s))
    if parts == 1 or len(energy) < _SMOOTH_FRAMES:
        return []
    smooth = np.convolve(energy, np.ones(_SMOOTH_FRAMES) / _SMOOTH_FRAMES, mode="same")
    reach = min(round(_SEARCH_S / _FRAME_S), len(energy) // parts // 3)
    cuts = []
    for k in range(1, parts):
        middle = round(k * len(energy) / parts)
        quietest = middle - reach + int(np.argmin(smooth[middle - reach : middle + reach]))
        cuts.append(start + quietest * hop)
    return cuts


def write_plan(blocks: Iterable[Block]) -> str:
    """`plan.jsonl`: one line a block."""
    lines = []
    for block in blocks:
        seconds = sum(piece.declared_s for piece in block.pieces)
        line = {"block": block.name, "index": block.index, "rate_hz": block.rate_hz, "seconds": round(seconds, 3)}
        lines.append(json.dumps(line | {"pieces": [p.plan() for p in block.pieces]}, ensure_ascii=False) + "\n")
    return "".join(lines)


def read_plan(text: str) -> list[Block]:
    """The inverse of `write_plan`."""
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [Block(row["index"], row["rate_hz"], [Piece(**piece) for piece in row["pieces"]]) for row in rows]
