"""The process that decodes. A file from a stranger may crash a decoder or keep it busy for ever: it does so here, alone.

`transforms.contain` starts it and talks to it. Requests come as JSON lines on its input; replies go to its output, each as
two little-endian uint32 (length of the JSON, length of the payload), the JSON, the payload.
"""

import hashlib
import json
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import av
import numpy as np

from schemas import Reason
from transforms.audio import Count, NoAudioStream, opened, probe, stretch

MEMORY_BYTES = 2 << 30
"""Address space that the process may have. It streams, so it needs some 300 MB; a file that makes a decoder ask for more fails."""
FRAME_S = 0.02
"""One energy of `scan`."""
_SEND_BYTES = 1 << 20
_ALIVE_S = 0.5


def reason_of(error: BaseException) -> tuple[str, str]:
    """The reason of the closed list for an error while opening or decoding, and its words."""
    # PyAV maps some of its libraries at the first use; without room for them that is an ImportError.
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map segment" in str(error)):
        return Reason.OUT_OF_MEMORY.value, f"the decoder asked for more than {MEMORY_BYTES >> 20} MB"
    if isinstance(error, NoAudioStream):
        return Reason.NO_AUDIO.value, str(error)
    if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
        return Reason.MISSING.value, error.strerror or str(error)
    words = str(error.strerror if isinstance(error, av.error.FFmpegError) else error)
    if isinstance(error, ValueError) and "null byte" in words:
        return Reason.MISSING.value, "no file can have a NUL in its name"
    return Reason.UNREADABLE.value, f"{type(error).__name__}: {words}"


def do_probe(files: list[tuple[str, int, int]]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """A reply for each file (path, first byte, size), in order: `_learn` of it. Between them, signs of life."""
    for path, at, size in files:
        yield from _learn(path, at, size)


def _learn(path: str, at: int, size: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Fingerprint and header of a file. Where the header does not read, the fingerprint and the reason."""
    reply: dict[str, Any] = {"file": path}
    try:
        digest = hashlib.sha256()
        alive = time.monotonic()
        with opened(path, at, size) as stream:
            reply["bytes"] = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            while data := stream.read(_SEND_BYTES):
                digest.update(data)
                if time.monotonic() - alive > _ALIVE_S:
                    alive = time.monotonic()
                    yield {"alive": 1}, b""
        reply["sha256"] = digest.hexdigest()
        header = probe(path, at, size)
        reply |= {"rate_hz": header.rate_hz, "channels": header.channels, "duration_s": header.duration_s}
    except Exception as error:
        reply["error"] = reason_of(error)
    yield reply, b""


def do_decode(
    path: str, at: int, size: int, start: int, end: int, most_s: float, channels: str
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Samples as they come, float32 `[C, m]` a reply, about 1 MB each; then the counts."""
    waiting: list[np.ndarray] = []
    held, over, rate_hz, count = 0, 0, 0, Count()
    alive = time.monotonic()
    with opened(path, at, size) as stream:
        for samples, more, rate_hz, count in stretch(path if size < 0 else stream, start, end, most_s):  # noqa: B007
            over += more
            if samples.shape[1]:
                kept = _channels(samples, channels)
                waiting.append(kept)
                held += kept.nbytes
            if held > _SEND_BYTES or time.monotonic() - alive > _ALIVE_S:
                yield _samples(waiting)
                waiting, held, alive = [], 0, time.monotonic()
    yield _samples(waiting)
    done = {"rate_hz": rate_hz, "packets": count.packets, "bad_packets": count.bad, "first_error": count.first_error}
    yield done | {"over": over, "torn": int(count.since_good == 1), "broken_off": count.broken_off}, b""


def do_scan(path: str, at: int, size: int, start: int, end: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Decode a stretch for its length and its pauses: float32 mean squares of 20 ms each, and how many samples there are."""
    energies: list[np.ndarray] = []
    rest = np.zeros(0, np.float32)
    total, rate_hz, alive = 0, 0, time.monotonic()
    with opened(path, at, size) as stream:
        for samples, _, rate_hz, _ in stretch(path if size < 0 else stream, start, end):
            hop = max(1, round(FRAME_S * rate_hz))
            total += samples.shape[1]
            rest = np.concatenate([rest, samples.mean(axis=0)]) if samples.shape[1] else rest
            whole = len(rest) // hop
            if whole >= 50:
                energies.append(np.square(rest[: whole * hop].reshape(whole, hop)).mean(axis=1))
                rest = rest[whole * hop :]
            if time.monotonic() - alive > _ALIVE_S:
                alive = time.monotonic()
                yield {"alive": 1}, b""
    if rate_hz:
        hop = max(1, round(FRAME_S * rate_hz))
        whole = len(rest) // hop
        energies.append(np.square(rest[: whole * hop].reshape(whole, hop)).mean(axis=1))
    found = np.nan_to_num(np.concatenate(energies) if energies else np.zeros(0)).astype("<f4")
    yield {"samples": total, "rate_hz": rate_hz}, found.tobytes()


def _channels(samples: np.ndarray, how: str) -> np.ndarray:
    """`[channels, m]` -> `[C, m]`: all of them ("split"), the "first", or their mean ("mix")."""
    if how == "split":
        return samples
    return samples[:1] if how == "first" else samples.mean(axis=0, dtype=np.float32, keepdims=True)


def _samples(waiting: list[np.ndarray]) -> tuple[dict[str, Any], bytes]:
    if not waiting:
        return {"alive": 1}, b""
    made = np.concatenate(waiting, axis=1) if len(waiting) > 1 else waiting[0]
    return {"channels": len(made)}, made.astype("<f4", copy=False).tobytes()


ACTIONS: dict[str, Callable[..., Iterator[tuple[dict[str, Any], bytes]]]] = {
    "probe": do_probe,
    "decode": do_decode,
    "scan": do_scan,
}


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Say that it is ready, and answer requests until there are no more. The last reply to each has `"end"`."""

    def send(head: dict[str, Any], payload: bytes = b"") -> None:
        data = json.dumps(head).encode()
        replies.write(struct.pack("<II", len(data), len(payload)) + data)
        if payload:
            _write_all(replies, payload)

    send({"ready": 1})
    for line in requests:
        request = json.loads(line)
        # Should whoever asked be gone by then, the kernel ends this process even where a decoder never returns.
        signal.alarm(int(request.pop("limit_s")) + 60)
        try:
            for head, payload in ACTIONS[request.pop("action")](**request):
                send(head, payload)
            send({"end": 1})
        except BrokenPipeError:
            return
        except Exception as error:
            send({"end": 1, "error": reason_of(error)})
        signal.alarm(0)


def _write_all(stream: IO[bytes], data: bytes) -> None:
    """Of an unbuffered stream, `write` may take a part only."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


def main() -> None:
    """Serve on the process's own input and output, under its limits; what a library prints goes nowhere."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then closes the pipe
    av.logging.set_level(None)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    serve(sys.stdin.buffer, replies)
