"""Signals to decoders at their work, for tests of what becomes of a decoder that crashes or hangs."""

import os
import signal
import threading
import time
from pathlib import Path

from transforms import contain


def strike(what: signal.Signals, path: Path) -> threading.Thread:
    """Send a signal to the first decoder that has `path` open."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for pid in contain.pids():
                if str(path) in open_files(pid):
                    os.kill(pid, what)
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found.add(os.readlink(link))
        except OSError:
            continue
    return found
