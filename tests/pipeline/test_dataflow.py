"""A Dataflow submission, offline: staged package, graph and hints are read back from a storage emulator.

The job never executes here; what is checked is all that leaves this machine when one is submitted.
"""

import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("apache_beam.io.gcp.gcsio", reason="needs apache-beam[gcp]")
pytest.importorskip("gcp_storage_emulator", reason="needs gcp-storage-emulator")

ROOT = Path(__file__).resolve().parents[2]


class Jobs(http.server.BaseHTTPRequestHandler):
    """The two calls of the Dataflow service that a submission makes: create a job, and ask for its state."""

    created: list[dict[str, Any]]

    def _answer(self, fields: dict[str, Any]) -> None:
        body = json.dumps(fields).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.created.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer({"id": "job-1", "currentState": "JOB_STATE_RUNNING", "projectId": "p", "location": "us-central1"})

    def do_GET(self) -> None:
        self._answer({"id": "job-1", "currentState": "JOB_STATE_DONE"} if "messages" not in self.path else {})

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    created: list[dict[str, Any]] = []
    handler = type("Handler", (Jobs,), {"created": created})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], created
    server.shutdown()


def test_a_job_is_submitted_with_package_graph_and_hints(
    bucket: str, service: tuple[int, list[dict[str, Any]]], shared: Path
) -> None:
    port, created = service
    clip = sorted((shared / "data" / "librispeech-test-other").glob("*.flac"))[0]
    upload = f"{bucket}/upload/storage/v1/b/bkt/o?uploadType=media&name=audio/{clip.name}"
    urllib.request.urlopen(urllib.request.Request(upload, data=clip.read_bytes(), method="POST"), timeout=10)

    command = [sys.executable, "-m", "pipeline.cli", "prepare", "configs/demo.yaml", "--out=gs://bkt/corpus"]
    command += [
        "--set",
        "sources=['gs://bkt/audio/*.flac']",
        "--runner=DataflowRunner",
        "--project=p",
        "--region=us-central1",
    ]
    command += ["--temp_location=gs://bkt/tmp", "--staging_location=gs://bkt/staging", "--no_auth"]
    command += [f"--dataflow_endpoint=http://localhost:{port}", "--machine_type=g2-standard-8"]
    command += [
        "--resource_hint=accelerator=type:nvidia-l4;count:1;install-nvidia-driver",
        "--resource_hint=min_ram=16GB",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr[-3000:]

    (job,) = created
    assert job["type"] in ("JOB_TYPE_BATCH", 1)  # by name or, as newer clients send enums, by number
    listing = json.load(urllib.request.urlopen(f"{bucket}/storage/v1/b/bkt/o", timeout=10))
    staged = {item["name"]: item for item in listing["items"]}

    def content(suffix: str) -> bytes:
        (name,) = [n for n in staged if n.endswith(suffix)]
        quoted = urllib.request.quote(name, safe="")  # type: ignore[attr-defined]
        return bytes(urllib.request.urlopen(f"{bucket}/storage/v1/b/bkt/o/{quoted}?alt=media", timeout=10).read())

    with tarfile.open(fileobj=io.BytesIO(content("workflow.tar.gz"))) as package:
        names = {name.partition("/")[2] for name in package.getnames()}
    assert {"transforms/decode.py", "pipeline/store.py", "schemas/block.py", "training/model.py"} <= names
    assert any(name.startswith("transforms/embedded/") for name in names)

    graph = content("pipeline.pb")
    for part in (b"decode", b"segment", b"transcribe", b"align", b"units", b"codec", b"taste", b"commit"):
        assert part in graph
    assert b"beam:resources:accelerator:v1" in graph
    assert b"nvidia-l4" in graph
    assert json.loads(content("corpus/plan.jsonl").splitlines()[0])["pieces"][0]["uri"] == f"gs://bkt/audio/{clip.name}"
