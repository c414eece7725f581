"""A disk that fails: stands in for `os` and `open` in a module that writes files, and does something at the n-th operation."""

import errno
import os
import signal
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

OPERATIONS = ("makedirs", "open", "fsync", "replace", "unlink", "listdir")
"""Calls of `os` that touch the disk; `open`, `write` and `read` of file objects count too."""


class Disk:
    """Counts operations; at the `at`-th (0-based) it calls `fault(name)`, which may raise, kill this process or sleep.

    A write during which the fault strikes has put half of its bytes on the disk by then, as real ones do.
    """

    def __init__(self, at: int = -1, fault: Callable[[str], None] = lambda name: None, only: str = "") -> None:
        self.at, self.fault, self.only = at, fault, only
        self.seen: list[str] = []

    def step(self, name: str) -> None:
        if self.only in ("", name):
            self.seen.append(name)
            if len(self.seen) - 1 == self.at or self.at < 0:
                self.fault(name)

    def open(self, path: Any, mode: str = "r", **more: Any) -> "_File":
        self.step("open")
        return _File(self, open(path, mode, **more))

    def under(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> "Disk":
        """Put this disk under a module."""
        monkeypatch.setattr(module, "os", _Os(self))
        monkeypatch.setattr(module, "open", self.open, raising=False)
        return self


class _Os:
    """`os` of a module on a Disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in OPERATIONS:
            return real

        def call(*args: Any, **more: Any) -> Any:
            self._disk.step(name)
            return real(*args, **more)

        return call


class _File:
    def __init__(self, disk: Disk, stream: Any) -> None:
        self._disk, self._stream = disk, stream

    def write(self, data: bytes) -> int:
        self._stream.write(data[: len(data) // 2])
        self._stream.flush()
        self._disk.step("write")
        return len(data) // 2 + int(self._stream.write(data[len(data) // 2 :]))

    def read(self) -> Any:
        self._disk.step("read")
        return self._stream.read()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


def failing(number: int) -> Callable[[str], None]:
    """A fault that raises the operating system's error `number`, without a file name, as calls on handles do."""

    def fault(name: str) -> None:
        raise OSError(number, os.strerror(number))

    return fault


def killing(name: str) -> None:
    """A fault that ends this process at once, with nothing cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def slow(name: str) -> None:
    time.sleep(0.002)


NUMBERS = (errno.ENOSPC, errno.EIO)
