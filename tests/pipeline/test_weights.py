"""Weights on the command line: the list, the check, what a job needs, and the page."""

from pathlib import Path

import pytest

from pipeline.weights import describe_needed, run_pull, table_page
from schemas import Block
from transforms.options import Options
from transforms.stage import Stage
from transforms.weights import locate
from transforms.weights.rows import MODELS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANTIPHON_CACHE", str(tmp_path))
    monkeypatch.setenv("ANTIPHON_MODELS", "")
    return tmp_path


class Loads(Stage):
    """A stage that loads weights of the given names."""

    name = "loads"

    def __init__(self, *names: str) -> None:
        super().__init__(Options())
        self.names = names

    def __call__(self, block: Block) -> Block:
        return block

    def weights(self) -> dict[str, str]:
        return {name: locate(name).sha256 for name in self.names}


def test_the_list_says_what_is_here_and_what_is_missing(cache: Path) -> None:
    (cache / "silero_vad.onnx").write_bytes(b"12345")
    said: list[str] = []
    assert run_pull([], say=said.append) == 0
    lines = {line.split()[0]: line for line in said if not line.startswith(" ")}
    assert list(lines) == list(MODELS)
    assert str(cache / "silero_vad.onnx") in lines["silero-vad"]
    assert "antiphon pull kokoro-82m" in lines["kokoro-82m"]


def test_check_fetches_nothing_and_tells_what_is_wrong(cache: Path) -> None:
    said: list[str] = []
    assert run_pull([], check=True, say=said.append) == 0
    (cache / "silero_vad.onnx").write_bytes(b"12345")
    assert run_pull([], check=True, say=said.append) == 1
    assert MODELS["silero-vad"].sha256 in said[-1]
    assert run_pull(["lyra-v2"], check=True, say=said.append) == 1
    assert "antiphon pull lyra-v2" in said[-1]


def test_a_dry_run_names_each_model_once(cache: Path) -> None:
    (cache / "silero_vad.onnx").write_bytes(b"12345")
    lines = list(describe_needed([Loads("silero-vad"), Loads("silero-vad", "kokoro-82m"), Loads(), Loads("fitted")]))
    assert len(lines) == 3
    assert "silero_vad.onnx" in lines[0]
    assert "107.0 MB" in lines[1]
    assert "antiphon pull kokoro-82m" in lines[1]
    assert "'fitted'" in lines[2]


def test_the_page_is_made_from_the_table() -> None:
    page = Path(__file__).resolve().parents[2] / "docs/weights.md"
    assert page.read_text(encoding="utf-8") == table_page(), "run: python -m pipeline.weights"
