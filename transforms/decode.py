"""Bytes to samples: every piece of a Block decoded, resampled, and checked against what it claims to be."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from schemas import Block, Piece, Reason, Rejection
from schemas.show import show
from transforms.contain import DecoderError, decoder, limit_s
from transforms.options import Options
from transforms.resample import resample
from transforms.stage import Stage


class DecodeOptions(Options):
    """From encoded file to samples at the corpus's working rate."""

    rate_hz: int = Field(16000, ge=8000, le=48000)
    """Working rate: of the audio in the shards, and of what every stage reads (each resamples for its own model)."""
    channels: Literal["mix", "split", "first"] = "mix"
    """"mix": the mean of all channels. "split": each channel for itself, as where each holds a speaker. "first": the first."""
    max_bad_share: float = Field(0.05, ge=0, le=1)
    """Share of packets that may fail to decode before the file is rejected as corrupt."""
    short_s: float = Field(0.5, ge=0)
    """A file may be this much shorter than it claims, or 1 %, whichever is more: encoders pad and round."""
    max_undeclared_s: float = Field(600.0, gt=0)
    """Seconds kept of a file that holds more than it claims (twice its claim, where that is more): memory is bounded by it."""
    timeout_s: float = Field(60.0, gt=0)
    """Without a sign of life for so long, or slower than ten times real time after it, a decoder is ended."""


class Decode(Stage):
    """Fills each piece's `samples`; rejects, with its reason, what cannot be had. A broken file never ends a run."""

    name = "decode"
    version = 2

    def __init__(self, options: DecodeOptions) -> None:
        super().__init__(options)
        self._options = options

    def __call__(self, block: Block) -> Block:
        for piece in block.pieces:
            decode_piece(block, piece, self._options)
        return block


@dataclass
class _Decoded:
    """Samples `[C, n]` float32 at the file's own rate, C as `DecodeOptions.channels` has it, and how well it went."""

    samples: np.ndarray
    rate_hz: int
    packets: int
    bad_packets: int
    first_error: str
    over: int
    torn: int
    broken_off: str


def decode_piece(block: Block, piece: Piece, options: DecodeOptions) -> None:
    """Decode one piece into `piece.samples` at `block.rate_hz` and count its samples as taken in.

    What the file claims to hold and does not give is counted as taken in too, and rejected, so that seconds are conserved: a
    file that breaks off keeps what is there, and its missing end is rejected as `truncated`. What it holds far beyond its
    claim is decoded, counted and rejected as `undeclared`.
    """
    if piece.fault is not None:
        return _reject_all(block, piece, Reason(piece.fault[0]), piece.fault[1])
    try:
        decoded = _decode(piece, options)
    except DecoderError as error:
        return _reject_all(block, piece, error.reason, error.detail)
    got_s = decoded.samples.shape[1] / decoded.rate_hz if decoded.rate_hz else 0.0
    # The last packet of a file that breaks off is broken too; what is missing there is counted as truncated.
    if decoded.bad_packets - (decoded.torn if got_s else 0) > options.max_bad_share * max(1, decoded.packets):
        detail = f"{decoded.bad_packets} of {decoded.packets} packets broken, {decoded.first_error}"
        return _reject_all(
            block, piece, Reason.CORRUPT if got_s else Reason.UNREADABLE, detail, max(piece.declared_s, got_s)
        )
    if not got_s and piece.declared_s <= options.short_s:
        return _reject_all(block, piece, Reason.NO_AUDIO, "it holds no sample")
    if not np.isfinite(decoded.samples).all():
        bad = int((~np.isfinite(decoded.samples)).sum())
        detail = f"{bad} of {decoded.samples.size} samples are NaN or infinite"
        return _reject_all(block, piece, Reason.NOT_FINITE, detail, max(piece.declared_s, got_s))

    # Counted from the start of the file, so that neighbouring pieces meet without a gap or an overlap.
    scale = block.rate_hz / decoded.rate_hz if decoded.rate_hz else 1.0
    piece.offset = round(piece.start * scale)
    wanted = round((piece.start + decoded.samples.shape[1]) * scale) - piece.offset
    for channel, samples in _numbered(decoded.samples, options.channels).items():
        made = resample(samples, decoded.rate_hz, block.rate_hz)
        piece.samples[channel] = np.pad(made, (0, max(0, wanted - len(made))))[:wanted]
        block.samples_in += wanted
        missing_s = piece.declared_s - got_s
        words = f"{got_s:.2f} s decoded of {piece.declared_s:.2f} s declared"
        if decoded.over:
            detail = f"{decoded.over / decoded.rate_hz:.2f} s past {words}"
            _reject(block, piece, channel, wanted, round(decoded.over * scale), Reason.UNDECLARED, detail)
        elif missing_s > max(options.short_s, 0.01 * piece.declared_s) or decoded.broken_off:
            missing = max(0, round(missing_s * block.rate_hz))
            detail = f"{words}; {decoded.broken_off}" if decoded.broken_off else words
            _reject(block, piece, channel, wanted, missing, Reason.TRUNCATED, detail)
    return None


def _decode(piece: Piece, options: DecodeOptions) -> _Decoded:
    """The piece's own samples, by a process that may die of them. Raises DecoderError."""
    with local(piece.uri, piece.at, piece.size) as (path, at, size), decoder() as process:
        end_s = (piece.start / piece.rate_hz if piece.rate_hz else 0.0) + piece.declared_s
        parts: list[np.ndarray] = []
        done: dict[str, Any] = {
            "rate_hz": 0,
            "packets": 0,
            "bad_packets": 0,
            "first_error": "",
            "over": 0,
            "torn": 0,
            "broken_off": "",
        }
        for head, payload in process.ask(
            "decode",
            timeout_s=options.timeout_s,
            limit_s=limit_s(options.timeout_s, end_s, size if size >= 0 else _size(path)),
            path=path,
            at=at,
            size=size,
            start=piece.start,
            end=piece.end,
            most_s=max(options.max_undeclared_s, 2 * piece.declared_s),
            channels=options.channels,
        ):
            if payload:
                parts.append(np.frombuffer(payload, "<f4").reshape(head["channels"], -1))
            elif "over" in head:
                done = head
    samples = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.float32)
    return _Decoded(
        samples,
        **{
            name: done[name]
            for name in ("rate_hz", "packets", "bad_packets", "first_error", "over", "torn", "broken_off")
        },
    )


@contextlib.contextmanager
def local(uri: str, at: int = 0, size: int = -1) -> Iterator[tuple[str, int, int]]:
    """Path, first byte and size of a file on this machine. A remote object is fetched to a temporary file meanwhile.

    Raises DecoderError where a remote object cannot be fetched.
    """
    if "://" not in uri:
        yield uri, at, size
        return
    from apache_beam.io.filesystems import FileSystems

    with tempfile.NamedTemporaryFile(prefix="antiphon-") as copy:
        try:
            with FileSystems.open(uri, compression_type="uncompressed") as stream:
                if at:
                    stream.seek(at)
                left = size if size >= 0 else 1 << 62
                while left and (data := stream.read(min(left, 1 << 22))):
                    copy.write(data)
                    left -= len(data)
            copy.flush()
        except Exception as error:  # each store has errors of its own, and none of them may end the run
            raise DecoderError(Reason.MISSING, f"{type(error).__name__}: {error}") from error
        yield copy.name, 0, -1


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


def _numbered(samples: np.ndarray, how: str) -> dict[int, np.ndarray]:
    """`[C, n]` -> channel number -> `[n]`; -1 is the mix."""
    return {-1: samples[0]} if how == "mix" else dict(enumerate(samples))


def _reject(block: Block, piece: Piece, channel: int, start: int, samples: int, reason: Reason, detail: str) -> None:
    """Count `samples` from `start` of the piece (both at the working rate) as taken in and turned away."""
    start_s, end_s = (piece.offset + start) / block.rate_hz, (piece.offset + start + samples) / block.rate_hz
    block.samples_in += samples
    words = f"{show(piece.uri)}: {show(detail)}"[:500]
    block.rejections.append(Rejection(piece.source, channel, start_s, end_s, "decode", reason, words))


def _reject_all(block: Block, piece: Piece, reason: Reason, detail: str, seconds: float | None = None) -> None:
    """Turn a whole piece away: as long as it is or claims to be, or 0 s where nothing is known of it."""
    piece.offset = round(piece.start / piece.rate_hz * block.rate_hz) if piece.rate_hz else 0
    _reject(
        block, piece, -1, 0, round((piece.declared_s if seconds is None else seconds) * block.rate_hz), reason, detail
    )
