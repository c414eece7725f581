"""Bytes to samples: every piece of a Block decoded, resampled, and checked against what it claims to be."""

import io
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Block, Piece, Reason, Rejection
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


class Decode(Stage):
    """Fills each piece's `samples`; rejects, with its reason, what cannot be had. A broken file never ends a run."""

    name = "decode"

    def __init__(self, options: DecodeOptions) -> None:
        super().__init__(options)
        self._options = options

    def __call__(self, block: Block) -> Block:
        for piece in block.pieces:
            decode_piece(block, piece, self._options)
        return block


def decode_piece(block: Block, piece: Piece, options: DecodeOptions) -> None:
    """Decode one piece into `piece.samples` at `block.rate_hz` and count its samples as taken in.

    What the file claims to hold and does not give is counted as taken in too, and rejected, so that seconds are conserved: a
    file that breaks off keeps what is there, and its missing end is rejected as `truncated`.
    """
    import av

    from transforms.audio import NoAudioStream, decode

    try:
        decoded = decode(_readable(piece.uri), piece.start, piece.end)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        return _reject_all(block, piece, Reason.MISSING, f"{piece.uri}: {error.strerror or error}")
    except NoAudioStream as error:
        return _reject_all(block, piece, Reason.NO_AUDIO, f"{piece.uri}: {error}")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        return _reject_all(block, piece, Reason.UNREADABLE, f"{piece.uri}: {type(error).__name__}: {error}")
    got_s = decoded.samples.shape[1] / decoded.rate_hz if decoded.rate_hz else 0.0
    if decoded.bad_packets > options.max_bad_share * max(1, decoded.packets):
        detail = f"{decoded.bad_packets} of {decoded.packets} packets broken, {decoded.first_error}"
        reason = Reason.CORRUPT if got_s else Reason.UNREADABLE
        return _reject_all(block, piece, reason, f"{piece.uri}: {detail}")
    if not got_s and not piece.declared_s:
        return _reject_all(block, piece, Reason.NO_AUDIO, f"{piece.uri}: it holds no sample")
    if not np.isfinite(decoded.samples).all():
        bad = int((~np.isfinite(decoded.samples)).sum())
        detail = f"{piece.uri}: {bad} of {decoded.samples.size} samples are NaN or infinite"
        return _reject_all(block, piece, Reason.NOT_FINITE, detail)

    # Counted from the start of the file, so that neighbouring pieces meet without a gap or an overlap.
    scale = block.rate_hz / decoded.rate_hz
    piece.offset = round(piece.start * scale)
    wanted = round((piece.start + decoded.samples.shape[1]) * scale) - piece.offset
    for channel, samples in _channels(decoded.samples, options.channels).items():
        made = resample(samples, decoded.rate_hz, block.rate_hz)
        piece.samples[channel] = np.pad(made, (0, max(0, wanted - len(made))))[:wanted]
        block.samples_in += wanted
        missing_s = piece.declared_s - got_s
        if missing_s > max(options.short_s, 0.01 * piece.declared_s):
            missing = round(missing_s * block.rate_hz)
            block.samples_in += missing
            start_s, end_s = (piece.offset + wanted) / block.rate_hz, (piece.offset + wanted + missing) / block.rate_hz
            detail = f"{piece.uri}: {got_s:.2f} s decoded of {piece.declared_s:.2f} s declared"
            block.rejections.append(
                Rejection(piece.source, channel, start_s, end_s, "decode", Reason.TRUNCATED, detail)
            )
    return None


def _readable(uri: str) -> str | io.BytesIO:
    """A local path as it is; a remote object read whole (blocks bound it)."""
    if "://" not in uri:
        with open(uri, "rb"):  # for Python's own words on what is missing
            return uri
    from apache_beam.io.filesystems import FileSystems

    with FileSystems.open(uri, compression_type="uncompressed") as stream:
        return io.BytesIO(stream.read())


def _channels(samples: np.ndarray, how: str) -> dict[int, np.ndarray]:
    """`[channels, n]` -> channel number -> `[n]`; -1 is the mix."""
    if how == "split":
        return dict(enumerate(samples))
    if how == "first":
        return {0: samples[0]}
    return {-1: samples.mean(axis=0, dtype=np.float32)}


def _reject_all(block: Block, piece: Piece, reason: Reason, detail: str) -> None:
    """Turn a whole piece away: as long as it claims to be, or 0 s where nothing is known of it."""
    start = round(piece.start / piece.rate_hz * block.rate_hz) if piece.rate_hz else 0
    samples = round(piece.declared_s * block.rate_hz)
    block.samples_in += samples
    start_s, end_s = start / block.rate_hz, (start + samples) / block.rate_hz
    block.rejections.append(Rejection(piece.source, -1, start_s, end_s, "decode", reason, detail[:500]))
