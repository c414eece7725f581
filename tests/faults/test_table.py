"""The table of faults names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_test_in_the_table_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "faults.md").read_text())
    assert len(named) > 30
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


def test_no_fault_of_the_list_is_left_out() -> None:
    rows = re.findall(r"^\| (\d+)", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE)
    assert set(map(int, rows)) == set(range(1, 25))
