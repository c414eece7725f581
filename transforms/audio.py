"""Encoded bytes to samples, with PyAV: whatever is broken is counted, and what is whole is kept.

This is what runs in the decoder's own process (`transforms.decoder`); nothing else opens a media file.
"""

import io
import math
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import av
import numpy as np

# Containers whose time stamps count samples exactly, so that a jump lands where it says.
_EXACT_SEEK = frozenset({"wav", "flac", "w64", "aiff", "au", "caf"})

_FORMATS = (
    "wav w64 aiff au caf flac mp3 aac loas ogg mov mp4 m4a matroska webm asf avi amr amrnb amrwb mpeg mpegts flv ac3 eac3 "
    "ape tta tak wv voc nistsphere ircam sox gsm xwma mmf dts"
)
"""Demuxers that may open a source. Not among them are those that make FFmpeg open further files or addresses named in
the first (hls, dash, concat, sdp, image2): a file from a stranger must not choose what else is read."""

_CONTAINER_FAILURES = 10
"""In a row, after which there is no more to come of a container."""

_UNKNOWN_SIZE = 0x7FFF_0000
"""A wav's data size from here up, where the file is shorter, is what a recorder writes that cannot go back to fill it in."""


class NoAudioStream(ValueError):
    """A container that opens, and has no audio in it."""


class NotAFile(OSError):
    """A folder, a pipe, a socket or a device where a file should be."""


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
    over: int = 0
    """Samples that followed the last one kept."""


@dataclass
class Count:
    """Packets so far."""

    packets: int = 0
    bad: int = 0
    first_error: str = ""
    since_good: int = 0
    """Broken ones since the last whole one: the last packet of a file that breaks off is broken for that."""
    broken_off: str = ""
    """The error with which the container ended before its end."""


class Window(io.RawIOBase):
    """Bytes `at` to `at + size` of an open file, as a file of their own: a member of a tar, read where it lies."""

    def __init__(self, stream: IO[bytes], at: int, size: int) -> None:
        self._stream, self._at, self._size, self._position = stream, at, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        self._stream.seek(self._at + self._position)
        data = self._stream.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data


@contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
    """A regular file, open for reading; never waits, as opening a pipe without a writer would.

    Raises OSError (FileNotFoundError, PermissionError, NotAFile, ...), ValueError where the name holds a NUL.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as stream:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            kinds = [(stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket")]
            kind = next((name for test, name in kinds if test(mode)), "a device")
            raise NotAFile(f"{kind}, not a file")
        yield stream


@contextmanager
def opened(path: str, at: int = 0, size: int = -1) -> Iterator[IO[bytes] | Window]:
    """A whole file, or its bytes `at` to `at + size`. Raises as `open_file`."""
    with open_file(path) as stream:
        yield stream if size < 0 else Window(stream, at, size)


@contextmanager
def _container(source: str | IO[bytes] | Window, **options: str) -> Iterator[tuple[Any, Any]]:
    """An open container and its first audio stream. Raises av.error.FFmpegError, OSError, ValueError or NoAudioStream."""
    # `file:` keeps a name such as `a:b.wav` or `http.wav` from being read as a protocol.
    options |= {"format_whitelist": _FORMATS.replace(" ", ","), "protocol_whitelist": "file"}
    name = f"file:{source}" if isinstance(source, str) else source
    with av.open(name, metadata_errors="replace", options=options) as container:
        if not container.streams.audio:
            raise NoAudioStream("no audio stream")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise ValueError("no decoder for its audio: an encrypted stream or an unknown codec")
        if not stream.rate or not stream.channels:
            raise ValueError("the header gives no sample rate")
        yield container, stream


def probe(path: str, at: int = 0, size: int = -1) -> Header:
    """Read the header only. Raises as `open_file` and `_container` do."""
    with opened(path, at, size) as stream:
        riff = stream.read(12)
        is_wav = riff[:4] in (b"RIFF", b"RF64") and riff[8:12] == b"WAVE"
        declared = _wav_bytes(stream) if is_wav else None
        stream.seek(0)
        # FFmpeg would read packets of a wav to learn what its header says already; 4 kB are enough to tell what is in it.
        options = {"probesize": "4096"} if is_wav else {}
        with _container(path if isinstance(stream, io.BufferedReader) else stream, **options) as (container, track):
            if track.duration is not None and track.time_base is not None:
                seconds: float | None = float(track.duration * track.time_base)
            else:
                seconds = container.duration / av.time_base if container.duration is not None else None
            if declared and track.codec_context.bit_rate and track.codec_context.name.startswith(("pcm_", "adpcm_")):
                seconds = declared * 8 / track.codec_context.bit_rate
            known = seconds is not None and math.isfinite(seconds) and seconds > 0
            return Header(track.rate, track.channels, seconds if known else None)


def _wav_bytes(stream: IO[bytes] | Window) -> int | None:
    """How many bytes of samples a wav claims to hold, where that is more than the file has; None elsewhere.

    FFmpeg takes the length from the file where the file is short, so a torn wav would look whole. A size that no writer
    can have meant (0xFFFFFFFF of a recorder that streams) claims nothing.
    """
    end = stream.seek(0, os.SEEK_END)
    at, long = 12, None
    for _ in range(1000):  # chunks of a real file are a handful
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            return None
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"ds64":
            body = stream.read(16)
            long = struct.unpack("<Q", body[8:16])[0] if len(body) == 16 else None
        if name == b"data":
            claimed = long if size == 0xFFFF_FFFF and long else size
            unknown = claimed >= _UNKNOWN_SIZE and not long
            return int(claimed) if at + 8 + claimed > end and not unknown else None
        at += 8 + size + size % 2
    return None


def chunks(source: str | IO[bytes] | Window, start: int = 0) -> Iterator[tuple[int, int, np.ndarray, Count]]:
    """Decode packet by packet: (position of the chunk's first sample, rate_hz, float32 `[channels, m]`, the count so far).

    A packet that does not decode is counted and passed over, and gives an empty chunk. Positions count the samples that
    came out, from `start` on where the container's time stamps are exact (wav, flac and kin), and from 0 elsewhere, since
    a jump into an mp3 or ogg may land beside the mark. A stream that changes its rate or channels on the way goes on at
    the rate and channels that it began with.
    """
    with _container(source) as (container, stream):
        rate_hz, channels, layout = stream.rate, stream.channels, stream.layout
        if stream.codec_context.name == "flac":
            # Each frame has its checksum, and FFmpeg looks at it when asked; else a flipped bit is a burst of noise.
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
        nothing = np.zeros((channels, 0), np.float32)
        converter, kind = None, None
        position: int | None = 0
        if start and container.format.name in _EXACT_SEEK:
            container.seek(max(0, round((start / rate_hz - 1.0) / stream.time_base)), stream=stream)
            position = None
        count = Count()
        packets, failures = container.demux(stream), 0
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.EOFError):
                break
            except av.error.FFmpegError as error:
                failures += 1
                if failures > _CONTAINER_FAILURES:
                    count.broken_off = f"{type(error).__name__}: {error.strerror}"
                    break
                packets = container.demux(stream)  # it may find its way again behind the damage
                continue
            failures = 0
            count.packets += 1 if packet.size else 0
            try:
                frames = packet.decode()
                count.since_good = 0 if packet.size else count.since_good
            except av.error.EOFError:
                break
            except av.error.FFmpegError as error:
                count.bad += 1
                count.since_good += 1
                count.first_error = count.first_error or f"{type(error).__name__}: {error.strerror}"
                yield position or 0, rate_hz, nothing, count
                continue
            for frame in frames:
                if position is None:
                    position = round((frame.pts or 0) * (frame.time_base or 0) * rate_hz)
                if kind != (frame.format.name, frame.layout.name, frame.sample_rate):
                    kind = (frame.format.name, frame.layout.name, frame.sample_rate)
                    converter = av.AudioResampler(format="fltp", layout=layout, rate=rate_hz)
                assert converter is not None
                for piece in converter.resample(frame):
                    samples = piece.to_ndarray().astype(np.float32, copy=False).reshape(-1, piece.samples)
                    yield position, rate_hz, samples, count
                    position += piece.samples
        yield position or 0, rate_hz, nothing, count


def stretch(
    source: str | IO[bytes] | Window, start: int = 0, end: int = -1, most_s: float = math.inf
) -> Iterator[tuple[np.ndarray, int, int, Count]]:
    """Samples `start` to `end` (-1: all that follow): (float32 `[channels, m]`, how many more it had, rate_hz, the count).

    Not more than `most_s` seconds are given; what follows is decoded and only counted. A chunk without a sample is a sign
    of life.
    """
    given = 0
    for position, rate_hz, samples, count in chunks(source, start):
        first = max(0, start - position)
        last = samples.shape[1] if end < 0 else max(0, min(samples.shape[1], end - position))
        wanted = samples[:, first:last] if first < last else samples[:, :0]
        room = int(min(wanted.shape[1], max(0.0, most_s * rate_hz - given)))
        given += room
        yield wanted[:, :room], wanted.shape[1] - room, rate_hz, count
        if 0 <= end <= position:
            break


def decode(source: str | IO[bytes] | Window, start: int = 0, end: int = -1, most_s: float = math.inf) -> Decoded:
    """All of `stretch` at once.

    Raises av.error.FFmpegError, OSError or ValueError where the file does not open, NoAudioStream where it has none.
    """
    parts: list[np.ndarray] = []
    made = Decoded(np.zeros((1, 0), np.float32), 0)
    for samples, over, rate_hz, count in stretch(source, start, end, most_s):
        made.rate_hz, made.over = rate_hz, made.over + over
        made.packets, made.bad_packets, made.first_error = count.packets, count.bad, count.first_error
        parts.append(samples)
    if parts:
        made.samples = np.concatenate(parts, axis=1)
    return made
