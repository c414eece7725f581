"""The voices out of packages: what is joined, what is left out. The packages themselves are not fetched."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from examples.voices import PACKAGES, PIECE_S, Package, joined, unpacked

MADE = Package("made", "1", "0" * 64, "*.flac", "CC0")


def write(path: Path, seconds: float, rate_hz: int = 16000, level: float = 0.3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = level * np.sin(np.arange(round(seconds * rate_hz)) * 0.1)
    soundfile.write(path, np.stack([samples, 0 * samples], axis=1), rate_hz)


def test_files_of_a_folder_are_joined_and_no_second_of_a_full_piece_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "usr" / "share" / "made" / "sounds" / "en" / "digits"
    for i in range(8):
        write(folder / f"{i}.flac", 2.0)
    lines = list(joined(MADE, tmp_path / "made", tmp_path))
    assert [line["duration_s"] for line in lines] == pytest.approx([6, 6, 4], abs=0.01)
    for line in lines:
        samples, rate_hz = soundfile.read(line["audio"])
        assert rate_hz == 16000
        assert len(samples) / rate_hz == pytest.approx(line["duration_s"], abs=1e-3)
        # The loud channel, not the mean of both.
        assert np.abs(samples).max() == pytest.approx(0.3, abs=0.03)


def test_silent_slow_short_and_broken_files_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made" / "usr" / "share" / "made" / "sounds"
    write(folder / "good" / "a.flac", 7.0)
    write(folder / "silent" / "a.flac", 7.0, level=0)
    write(folder / "slow" / "a.flac", 7.0, rate_hz=8000)
    write(folder / "short" / "a.flac", 1.0)
    (folder / "broken").mkdir()
    (folder / "broken" / "a.flac").write_bytes(b"fLaC" + bytes(100))
    assert [line["duration_s"] for line in joined(MADE, tmp_path / "made", tmp_path)] == pytest.approx([7], abs=0.01)
    assert "broken/a.flac: left out" in capsys.readouterr().out


def test_another_package_than_the_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "made_1_all.deb").write_bytes(b"other")
    with pytest.raises(SystemExit, match=f"made_1_all.deb: sha256 .* {MADE.sha256} is expected"):
        unpacked(MADE, tmp_path)


def test_the_packages_are_told_exactly() -> None:
    assert len({package.name for package in PACKAGES}) == len(PACKAGES) == 10
    assert all(len(bytes.fromhex(package.sha256)) == 32 and package.licence for package in PACKAGES)
    assert PIECE_S > 0
