"""A storage emulator for what reads and writes `gs://`."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import files


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an emulator with an empty bucket `bkt`, which Google's client libraries use in this test."""
    pytest.importorskip("apache_beam.io.gcp.gcsio", reason="needs apache-beam[gcp]")
    pytest.importorskip("gcp_storage_emulator", reason="needs gcp-storage-emulator")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).parent / "gcp-storage-emulator"), "start", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen([*command, "--in-memory", "--default-bucket=bkt"], stderr=subprocess.DEVNULL)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    files.set_beam_args(["--no_auth"])  # else Beam looks for credentials, with retries, for half a minute
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{url}/storage/v1/b/bkt", timeout=1).read()
            break
        except OSError:
            time.sleep(0.1)
    yield url
    files.set_beam_args(["--runner=FnApiRunner"])
    process.terminate()
    process.wait(timeout=10)
