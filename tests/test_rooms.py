"""Who may import whom (docs/design.md): no arrow runs up, none runs between the two rooms in the middle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "schemas": {"schemas"},
    "transforms": {"transforms", "schemas"},
    "training": {"training", "schemas"},
    "pipeline": {"pipeline", "training", "transforms", "schemas"},
}
HEAVY = {
    "apache_beam",
    "torch",
    "transformers",
    "whisper",
    "onnxruntime",
    "av",
    "sklearn",
    "librosa",
    "scipy",
    "pyarrow",
}


def imports(path: Path) -> set[str]:
    """Top-level names of every package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_no_arrow_runs_up_or_sideways(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): imports(f) & set(MAY_IMPORT) - MAY_IMPORT[room] for f in files}
    assert {name: rooms for name, rooms in wrong.items() if rooms} == {}


def test_training_never_imports_beam() -> None:
    assert [f for f in (ROOT / "training").rglob("*.py") if "apache_beam" in imports(f)] == []


def test_schemas_import_numpy_and_pyarrow_only() -> None:
    outside = {name for f in (ROOT / "schemas").rglob("*.py") for name in imports(f)} - set(sys.stdlib_module_names)
    assert outside <= {"schemas", "numpy", "pyarrow"}


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from pipeline.cli import parser; parser().format_help(); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert HEAVY & set(out.split()) == set()


def test_the_config_imports_no_model_library() -> None:
    code = "import sys; import pipeline.config; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (HEAVY - {"pyarrow"}) & set(out.split()) == set()
