"""A hundred damaged files from plan to commit; `python -m benchmarks.fuzz` does thousands."""

from pathlib import Path

import numpy as np

from benchmarks.fuzz import mutate, run
from tests.conftest import SHARED


def test_a_hundred_damaged_files_end_in_rows_and_rejections(tmp_path: Path) -> None:
    report = run(100, 7, tmp_path)
    assert report.files == 100
    assert sum(report.reasons.values()) > 50
    assert report.kept > 10 or not SHARED.is_dir()
    assert report.decoder_mb < 500


def test_the_same_seed_damages_the_same_way() -> None:
    data, other = bytes(range(256)) * 20, bytes(5000)
    made = [mutate(data, other, np.random.default_rng([1, i % 2])) for i in range(4)]
    assert made[0] == made[2] != made[1] == made[3]
