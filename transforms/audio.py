"""Encoded bytes to samples, with PyAV: whatever is broken is counted, and what is whole is kept."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import av
import numpy as np

# Containers whose time stamps count samples exactly, so that a jump lands where it says.
_EXACT_SEEK = frozenset({"wav", "flac", "w64", "aiff", "au", "caf"})


class NoAudioStream(ValueError):
    """A container that opens, and has no audio in it."""


@dataclass
class Header:
    """What a file says of itself. `duration_s` is None where it does not say."""

    rate_hz: int
    channels: int
    duration_s: float | None


@dataclass
class Decoded:
    """Samples `[channels, n]` float32 at the file's own rate, and how well it went."""

    samples: np.ndarray
    rate_hz: int
    packets: int = 0
    bad_packets: int = 0
    first_error: str = ""


@dataclass
class _Count:
    packets: int = 0
    bad: int = 0
    first_error: str = ""


@contextmanager
def _open(source: str | IO[bytes]) -> Iterator[tuple[Any, Any]]:
    """An open container and its first audio stream. Raises av.error.FFmpegError, OSError, ValueError or NoAudioStream."""
    # `file:` keeps a name such as `a:b.wav` or `http.wav` from being read as a protocol.
    with av.open(f"file:{source}" if isinstance(source, str) else source, metadata_errors="replace") as container:
        if not container.streams.audio:
            raise NoAudioStream("no audio stream")
        stream = container.streams.audio[0]
        if not stream.rate or not stream.channels:
            raise ValueError("the header gives no sample rate")
        yield container, stream


def probe(source: str | IO[bytes]) -> Header:
    """Read the header only. Raises as `_open` does."""
    with _open(source) as (container, stream):
        if stream.duration is not None and stream.time_base is not None:
            seconds: float | None = float(stream.duration * stream.time_base)
        else:
            seconds = container.duration / av.time_base if container.duration is not None else None
        return Header(
            stream.rate, stream.channels, seconds if seconds and math.isfinite(seconds) and seconds > 0 else None
        )


def chunks(source: str | IO[bytes], start: int = 0) -> Iterator[tuple[int, int, np.ndarray, _Count]]:
    """Decode packet by packet: (position of the chunk's first sample, rate_hz, float32 `[channels, m]`, the count so far).

    A packet that does not decode is counted and passed over. Positions count the samples that came out, from `start` on where
    the container's time stamps are exact (wav, flac and kin), and from 0 elsewhere, since a jump into an mp3 or ogg may
    land beside the mark.
    """
    with _open(source) as (container, stream):
        rate_hz, channels = stream.rate, stream.channels
        converter = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate_hz)
        position: int | None = 0
        if start and container.format.name in _EXACT_SEEK:
            container.seek(max(0, round((start / rate_hz - 1.0) / stream.time_base)), stream=stream)
            position = None
        count = _Count()
        for packet in container.demux(stream):
            if packet.size:
                count.packets += 1
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                count.bad += 1
                count.first_error = count.first_error or f"{type(error).__name__}: {error.strerror}"
                continue
            for frame in frames:
                if position is None:
                    position = round(frame.pts * frame.time_base * rate_hz)
                for piece in converter.resample(frame):
                    samples = piece.to_ndarray().astype(np.float32, copy=False).reshape(-1, piece.samples)
                    if len(samples) != channels:  # the layout changed on the way: keep what can be kept
                        samples = np.broadcast_to(samples.mean(axis=0), (channels, piece.samples))
                    yield position, rate_hz, samples, count
                    position += piece.samples
        yield position or 0, rate_hz, np.zeros((channels, 0), np.float32), count


def decode(source: str | IO[bytes], start: int = 0, end: int = -1) -> Decoded:
    """Samples `start` to `end` (-1: all that follow) at the file's own rate, as many of them as there are.

    Raises av.error.FFmpegError, OSError or ValueError where the file does not open, NoAudioStream where it has none.
    """
    parts: list[np.ndarray] = []
    rate_hz, channels, count = 0, 1, _Count()
    for position, rate, samples, seen in chunks(source, start):
        rate_hz, channels, count = rate, len(samples), seen
        first = max(0, start - position)
        last = samples.shape[1] if end < 0 else max(0, min(samples.shape[1], end - position))
        if first < last:
            parts.append(samples[:, first:last])
        if 0 <= end <= position:
            break
    whole = np.concatenate(parts, axis=1) if parts else np.zeros((channels, 0), np.float32)
    return Decoded(whole, rate_hz, count.packets, count.bad, count.first_error)
