"""Signals to decoders at their work, for tests of what becomes of a decoder that crashes or hangs."""

import os
import signal
import threading
import time
from pathlib import Path

from transforms import contain


def strike(what: signal.Signals) -> threading.Thread:
    """Send a signal to the first decoder that runs, once it has used some processor time at its work."""

    def wait() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for pid in contain.pids():
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                # Fields 14 and 15 of proc(5), in hundredths of a second: past the imports.
                if int(fields[11]) + int(fields[12]) > 45:
                    os.kill(pid, what)
                    return
            time.sleep(0.005)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
