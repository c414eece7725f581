"""Decoding at arm's length: a process of its own that is used again and again, timed, and replaced when it dies."""

import atexit
import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas import Reason

_ROOT = Path(__file__).resolve().parent.parent
_START = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from transforms.decoder import main; main()"
_START_S = 120.0
"""For the process to start, import its libraries and say that it is ready."""
_PIPE_BYTES = 1 << 20
_SLOWEST_X = 10.0
"""Times real time under which a decoder counts as stuck; PyAV reaches some hundreds."""
_FEWEST_BYTES_PER_S = 8000
"""64 kbit/s: how many seconds a file may hold that does not say."""


class DecoderError(Exception):
    """A file could not be decoded, or its decoder did not live through it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def limit_s(timeout_s: float, seconds: float, size_bytes: int) -> float:
    """How long work on a file of so many seconds, or so many bytes where those are more, may take in all."""
    return timeout_s + max(seconds, size_bytes / _FEWEST_BYTES_PER_S) / _SLOWEST_X


class Decoder:
    """One decoding process, started when it is first asked."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(
        self, action: str, *, timeout_s: float, limit_s: float, **request: Any
    ) -> Iterator[tuple[dict[str, Any], bytearray]]:
        """Send one request and yield its replies (see `transforms.decoder`). Leave it before its end and the process is ended.

        Args:
            timeout_s: longest time without a sign of life. limit_s: longest time in all.

        Raises DecoderError: `crashed`, `timeout`, or the reason that the process gives.
        """
        if self.process is not None and self.process.poll() is not None:
            self.stop()  # it died between two requests, of neither
        if self.process is not None and self._folder != os.getcwd():
            self.stop()  # a relative name means another file there
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        deadline = time.monotonic() + limit_s
        finished = False
        try:
            line = json.dumps({"action": action, "limit_s": limit_s, **request}).encode() + b"\n"
            try:
                self.process.stdin.write(line)
                self.process.stdin.flush()
            except OSError:
                raise self._died() from None
            while True:
                head, payload = self._reply(timeout_s, deadline)
                if "error" in head and head.get("end"):
                    finished = True
                    raise DecoderError(Reason(head["error"][0]), head["error"][1])
                if head.get("end"):
                    finished = True
                    return
                yield head, payload
        finally:
            if not finished:
                self.stop()

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            self.process = None

    def _start(self) -> None:
        self._folder = os.getcwd()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self.process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self._reply(_START_S, time.monotonic() + _START_S)
        except DecoderError as error:  # of this machine, not of a file: no reason to reject one after the other
            self.stop()
            raise RuntimeError(f"{error.detail} before it was ready; {sys.executable} -c {_START!r} says why") from None

    def _reply(self, timeout_s: float, deadline: float) -> tuple[dict[str, Any], bytearray]:
        head_bytes, payload_bytes = struct.unpack("<II", self._read(8, timeout_s, deadline))
        head = json.loads(bytes(self._read(head_bytes, timeout_s, deadline)))
        return head, self._read(payload_bytes, timeout_s, deadline)

    def _read(self, count: int, timeout_s: float, deadline: float) -> bytearray:
        assert self.process is not None
        assert self.process.stdout is not None
        handle = self.process.stdout.fileno()
        buffer = bytearray(count)
        view, at = memoryview(buffer), 0
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while at < count:
            left_s = min(timeout_s, deadline - time.monotonic())
            if left_s <= 0 or not poll.poll(left_s * 1000):
                late = time.monotonic() >= deadline
                words = "was not done in the time it had" if late else f"gave no sign of life for {timeout_s:g} s"
                raise DecoderError(Reason.TIMEOUT, f"the decoder {words}")
            got = os.readv(handle, [view[at:]])
            if not got:
                raise self._died()
            at += got
        return buffer

    def _died(self) -> DecoderError:
        assert self.process is not None
        code = self.process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return DecoderError(Reason.CRASHED, f"the decoder {how}")


_idle: list[Decoder] = []
_all: list[Decoder] = []
_guard = threading.Lock()
_owner = os.getpid()


@contextlib.contextmanager
def decoder() -> Iterator[Decoder]:
    """A decoder that nobody else in this process uses meanwhile. Those that live on are used again."""
    global _owner
    with _guard:
        if _owner != os.getpid():  # forked: the parent's decoders are the parent's
            _owner = os.getpid()
            _idle.clear()
            _all.clear()
        if not _idle:
            _idle.append(Decoder())
            _all.append(_idle[-1])
        borrowed = _idle.pop()
    try:
        yield borrowed
    finally:
        with _guard:
            _idle.append(borrowed)


def pids() -> list[int]:
    """Process ids of the decoders of this process that run."""
    return [d.process.pid for d in list(_all) if d.process is not None]


@atexit.register
def _stop_all() -> None:
    if _owner == os.getpid():
        for one in _all:
            one.stop()
