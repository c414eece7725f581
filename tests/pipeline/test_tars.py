"""Tars as sources: samples by webdataset's key rule, audio read in place, what is wrong said."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import PlanOptions, make_plan
from pipeline.sources import SourceError, find_sources
from pipeline.tars import split_key
from tests.conftest import Clip
from transforms.decode import Decode, DecodeOptions


def wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="WAV")
    return buffer.getvalue()


def make(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("name", "key", "suffix"),
    [
        ("a.wav", "a", ".wav"),
        ("a/b.c/d.seg1.WAV", "a/b.c/d", ".seg1.wav"),
        ("../x.y.flac", "../x", ".y.flac"),
        ("none", "none", ""),
        ("a/.hidden", "a/", ".hidden"),
    ],
)
def test_the_key_ends_at_the_first_dot_of_the_last_part(name: str, key: str, suffix: str) -> None:
    assert split_key(name) == (key, suffix)


@given(st.text(), st.text())
def test_key_and_suffix_make_up_the_name(folder: str, base: str) -> None:
    key, suffix = split_key(f"{folder}/{base}")
    assert (key + suffix).lower() == f"{folder}/{base}".lower()


def test_samples_come_with_their_text_and_fields_and_exact_audio(speech: list[Clip], tmp_path: Path) -> None:
    loud = {f"s{i}": np.round(clip.samples * 32767) / 32768 for i, clip in enumerate(speech[:3])}
    members = []
    for i, (key, samples) in enumerate(loud.items()):
        members += [
            (f"{key}.json", json.dumps({"speaker": f"p{i}", "text": "json"}).encode()),
            (f"{key}.wav", wav(samples)),
        ]
    members += [("s0.txt", b"written \n"), ("s9.txt", b"no audio"), ("cover.jpg", b"x")]
    path = make(tmp_path / "a.tar", members)
    before = set(tmp_path.iterdir())
    entries = find_sources([str(path)])
    assert [e.source for e in entries] == [f"{path}/{key}.wav" for key in loud]
    assert entries[0].given == {"text": "written", "speaker": "p0"}
    assert entries[1].given == {"text": "json", "speaker": "p1"}
    (block,) = make_plan(entries, PlanOptions(), rate_hz=16000)
    Decode(DecodeOptions())(block)
    assert not block.rejections
    for piece, samples in zip(block.pieces, loud.values(), strict=True):
        assert np.abs(piece.samples[-1] - samples).max() <= 1 / 32768
    assert set(tmp_path.iterdir()) == before


def test_a_long_member_is_cut_into_blocks_like_any_file(speech: list[Clip], tmp_path: Path) -> None:
    samples = np.round(np.concatenate([clip.samples for clip in speech]) * 32767) / 32768
    path = make(tmp_path / "a.tar", [("x.wav", wav(samples[:32000])), ("y.wav", wav(samples))])
    blocks = make_plan(find_sources([str(path)]), PlanOptions(block_s=10), rate_hz=16000)
    assert len(blocks) > 2
    parts = []
    for block in blocks:
        Decode(DecodeOptions())(block)
        assert not block.rejections
        parts += [piece.samples[-1] for piece in block.pieces if piece.source.endswith("y.wav")]
    assert np.abs(np.concatenate(parts) - samples).max() <= 1 / 32768


def test_a_changed_member_changes_its_own_fingerprint_alone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)

    def marks(second: np.ndarray) -> list[str]:
        path = make(tmp_path / "a.tar", [("a.wav", wav(noise)), ("b.wav", wav(second))])
        (block,) = make_plan(find_sources([str(path)]), PlanOptions(), rate_hz=16000)
        return [piece.fingerprint for piece in block.pieces]

    first, other = marks(noise), marks(-noise)
    assert first[0] == first[1] == other[0] != other[1]


def test_fault_12_two_members_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.tar", [("a.wav", b"1"), ("a.flac", b"2"), ("b.wav", b"3"), ("b.wav", b"4"), ("x/a.wav", b"5")]
    )
    with pytest.raises(SourceError) as caught:
        find_sources([str(path)])
    first, second = str(caught.value).split("\n")
    assert "a.wav and a.flac" in first
    assert "two members are called b.wav" in second


def test_a_folder_of_tars_is_told_how_to_name_them(tmp_path: Path) -> None:
    make(tmp_path / "a.tar", [("a.wav", b"1")])
    with pytest.raises(SourceError, match=r"folder/\*\.tar"):
        find_sources([str(tmp_path)])
    assert len(find_sources([str(tmp_path / "*.tar")])) == 1


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.97])
def test_a_torn_tar_keeps_its_whole_members_and_says_that_it_is_torn(tmp_path: Path, keep: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    path = make(tmp_path / "a.tar", [(f"{i}.wav", wav(noise)) for i in range(10)])
    os.truncate(path, int(path.stat().st_size * keep))
    blocks = make_plan(find_sources([str(path)]), PlanOptions(), rate_hz=16000)
    for block in blocks:
        Decode(DecodeOptions())(block)
    pieces = [piece for block in blocks for piece in block.pieces]
    said = [r for block in blocks for r in block.rejections if r.source == str(path)]
    assert [r.reason for r in said] == ["corrupt"]
    assert "breaks off" in said[0].detail
    whole = [p for p in pieces if p.samples and len(p.samples[-1]) == 16000]
    assert len(whole) >= int(10 * keep) - 1


def test_a_pipe_or_nothing_at_all_where_a_tar_should_be(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "gone.tar").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty.tar").touch()
    entries = find_sources([str(tmp_path / "*.tar")])
    faults = {Path(e.source).name: e.fault for e in entries}
    assert faults["pipe.tar"] == ("missing", "not a file")
    assert faults["gone.tar"]
    assert faults["gone.tar"][0] == "missing"
    assert faults["empty.tar"]
    assert faults["empty.tar"][0] == "unreadable"
