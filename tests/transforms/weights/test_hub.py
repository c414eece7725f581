"""The hub's real client against a server on this machine that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "toy"}',
    "model.safetensors": b"weights" * 100,
    "pytorch_model.bin": b"the same again, pickled",
    "onnx/model.onnx": b"and again",
}


class _Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        parts = self.path.split("?")[0].split("/", 5)  # /owner/toy/resolve/COMMIT/file, or /api/models/owner/toy/...
        if parts[1] == "api":
            siblings = [{"rfilename": name} for name in FILES]
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in FILES.items()]
            body = json.dumps(
                tree if "/tree/" in self.path else {"id": "owner/toy", "sha": COMMIT, "siblings": siblings}
            )
            data = body.encode()
        else:
            data = FILES.get(parts[-1], b"")
        self.send_response(200 if data else 404)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def python(code: str, endpoint: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, since the client reads its settings once."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home"), "ANTIPHON_MODELS": ""}
    env = {
        **os.environ,
        **settings,
        "ANTIPHON_CACHE": str(folder / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "*",
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def kept(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_repository_comes_whole_with_its_weights_in_one_format(endpoint: str, tmp_path: Path) -> None:
    done = python("from transforms.weights import pull; pull(['owner/toy'])", endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    assert kept(tmp_path / "cache/owner--toy") == {n: FILES[n] for n in ("config.json", "model.safetensors")}
    assert "hub owner/toy@main" in (tmp_path / "cache/.receipts/owner--toy.json").read_text()


@pytest.mark.parametrize("right", [True, False])
def test_named_files_come_under_their_new_names_and_are_checked(right: bool, endpoint: str, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(FILES["onnx/model.onnx"] if right else b"").hexdigest()
    file = f"File('onnx/model.onnx', 'sub/toy.onnx', '{sha256}')"
    code = "from pathlib import Path; from transforms.weights.sources import File, Hub; "
    code += f"folder = Path({str(tmp_path / 'out')!r}); folder.mkdir(); Hub('owner/toy', '{COMMIT}', ({file},)).fetch(folder)"
    done = python(code, endpoint, tmp_path)
    if right:
        assert done.returncode == 0, done.stderr
        assert kept(tmp_path / "out") == {"sub/toy.onnx": FILES["onnx/model.onnx"]}
    else:
        assert f"expected {sha256}" in done.stderr


def test_a_hub_that_does_not_answer_costs_no_retries(tmp_path: Path) -> None:
    done = python("from transforms.weights import pull; pull(['owner/toy'])", "http://127.0.0.1:9", tmp_path)
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr
    assert "Retry" not in done.stderr
