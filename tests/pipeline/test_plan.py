"""The plan: the same from the same sources, nothing lost at a cut, split by recording."""

import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import PlanOptions, make_plan, read_plan, write_plan
from pipeline.sources import Entry, find_sources
from tests.conftest import Clip
from tests.media import encode
from tests.strikes import strike
from transforms import contain
from transforms.audio import decode, probe
from transforms.decode import Decode, DecodeOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    random = np.random.default_rng(0)
    for i in range(12):
        soundfile.write(folder / f"{i:02}.wav", random.uniform(-0.1, 0.1, 8000 * (1 + i % 5)), 8000)
    return folder


def entries(folder: Path) -> list[Entry]:
    return find_sources([str(folder)])


@given(st.floats(0.5, 60))
@settings(max_examples=20, deadline=None)
def test_every_second_is_in_one_block_and_the_plan_round_trips(folder: Path, block_s: float) -> None:
    blocks = make_plan(entries(folder), PlanOptions(block_s=block_s), rate_hz=16000)
    assert [b.index for b in blocks] == list(range(len(blocks)))
    assert sum(p.declared_s for b in blocks for p in b.pieces) == pytest.approx(
        sum(1 + i % 5 for i in range(12)), abs=0.01
    )
    assert all(sum(p.declared_s for p in b.pieces) <= 2 * block_s for b in blocks)
    assert write_plan(read_plan(write_plan(blocks))) == write_plan(blocks)


def test_a_touched_file_plans_the_same_and_a_changed_one_does_not(folder: Path) -> None:
    before = write_plan(make_plan(entries(folder), PlanOptions(block_s=4), rate_hz=16000))
    (folder / "03.wav").touch()
    assert write_plan(make_plan(entries(folder), PlanOptions(block_s=4), rate_hz=16000)) == before
    data = bytearray((folder / "03.wav").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "03.wav").write_bytes(data)
    after = write_plan(make_plan(entries(folder), PlanOptions(block_s=4), rate_hz=16000))
    changed = [a for a, b in zip(after.splitlines(), before.splitlines(), strict=True) if a != b]
    assert len(changed) == 1
    assert "03.wav" in changed[0]


def test_splits_follow_recordings_and_someone_is_always_held_out(folder: Path) -> None:
    found = [e for e in entries(folder) for _ in range(2)]
    blocks = make_plan(found, PlanOptions(heldout_share=0.3), rate_hz=16000)
    splits: dict[str, set[str]] = {}
    for block in blocks:
        for piece in block.pieces:
            splits.setdefault(piece.uri, set()).add(piece.given["split"])
    assert all(len(s) == 1 for s in splits.values())
    assert 0 < sum(s == {"heldout"} for s in splits.values()) < 12
    tiny = make_plan(entries(folder), PlanOptions(heldout_share=1e-9), rate_hz=16000)
    assert sum(p.given["split"] == "heldout" for b in tiny for p in b.pieces) == 1
    none = make_plan(entries(folder), PlanOptions(heldout_share=0), rate_hz=16000)
    assert all(p.given["split"] == "train" for b in none for p in b.pieces)


def test_a_manifests_own_split_wins(folder: Path) -> None:
    entry = Entry("a", str(folder / "00.wav"), "r", given={"split": "heldout"})
    (block,) = make_plan([entry], PlanOptions(heldout_share=0), rate_hz=16000)
    assert block.pieces[0].given["split"] == "heldout"


def test_a_long_recording_is_cut_in_its_pauses_and_no_sample_is_lost(speech: list[Clip], tmp_path: Path) -> None:
    pause = np.zeros(8000, np.float32)
    whole = np.concatenate([part for clip in speech * 2 for part in (clip.samples, pause)])
    path = tmp_path / "long.flac"
    soundfile.write(path, whole, 16000)
    blocks = make_plan(find_sources([str(path)]), PlanOptions(block_s=20), rate_hz=16000)
    assert len(blocks) > 3
    stage = Decode(DecodeOptions())
    parts, ends = [], [0]
    for block in blocks:
        stage(block)
        (piece,) = block.pieces
        assert piece.offset == ends[-1]
        parts.append(piece.samples[-1])
        ends.append(piece.offset + len(piece.samples[-1]))
        assert not block.rejections
    assert np.array_equal(np.concatenate(parts), decode(str(path)).samples[0])
    for cut in ends[1:-1]:
        assert np.abs(whole[cut - 800 : cut + 800]).max() < 0.1 * np.abs(whole).max()


def test_an_unreadable_file_is_planned_for_decode_to_reject(tmp_path: Path) -> None:
    (tmp_path / "page.mp3").write_text("<html>")
    found = [*find_sources([str(tmp_path)]), Entry("gone", str(tmp_path / "gone.wav"), "gone", None, 3.0)]
    (block,) = make_plan(found, PlanOptions(), rate_hz=16000)
    Decode(DecodeOptions())(block)
    assert [r.reason for r in block.rejections] == ["missing", "unreadable"] or [
        r.reason for r in block.rejections
    ] == ["unreadable", "missing"]
    assert block.samples_in == 48000
    block.check_conserved()


@pytest.mark.parametrize(("what", "reason"), [(signal.SIGSEGV, "crashed"), (signal.SIGSTOP, "timeout")])
def test_fault_08_a_file_that_crashes_or_blocks_its_decoder_is_planned_to_be_rejected(
    folder: Path, tmp_path: Path, what: signal.Signals, reason: str
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(np.random.default_rng(0).integers(-9999, 9999, 96000).astype(np.int16), 600), 96000)
    for one in contain._idle:
        one.stop()
    thread = strike(what)
    blocks = make_plan(find_sources([str(path), str(folder)]), PlanOptions(block_s=300), rate_hz=16000, timeout_s=2.0)
    thread.join()
    (bad,) = [p for b in blocks for p in b.pieces if p.fault]
    assert bad.uri == str(path)
    assert bad.fault
    assert bad.fault[0] == reason
    assert sum(p.declared_s for b in blocks for p in b.pieces if not p.fault) == pytest.approx(33, abs=0.01)
    (again,) = [p for b in read_plan(write_plan(blocks)) for p in b.pieces if p.fault]
    assert again.fault == bad.fault


def test_a_file_that_says_no_length_is_decoded_for_it(speech: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "live.webm"
    wide = np.repeat(np.tile(speech[0].samples, 8), 3)
    encode(path, wide[None], 48000, "libopus", options={"live": "1"})
    assert probe(str(path)).duration_s is None
    blocks = make_plan(find_sources([str(path)]), PlanOptions(block_s=20), rate_hz=16000)
    assert len(blocks) > 2
    assert sum(p.declared_s for b in blocks for p in b.pieces) == pytest.approx(len(wide) / 48000, abs=0.1)


def test_a_header_whose_claim_its_bytes_deny_is_not_believed(speech: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "lies.flac"
    soundfile.write(path, np.tile(np.random.default_rng(0).integers(-9999, 9999, 16000).astype(np.int16), 1500), 16000)
    data = bytearray(path.read_bytes())
    data[21:26] = bytes([data[21] & 0xF0]) + (16000).to_bytes(4, "big")  # total samples in STREAMINFO: one second
    path.write_bytes(data)
    assert probe(str(path)).duration_s == 1.0
    blocks = make_plan(find_sources([str(path)]), PlanOptions(block_s=300), rate_hz=16000)
    assert sum(p.declared_s for b in blocks for p in b.pieces) == pytest.approx(1500)
    assert len(blocks) == 5


def test_no_credential_of_an_address_is_in_the_plan(folder: Path) -> None:
    entry = Entry("a", "https://user:secret@host/a.wav?token=secret", "r", fault=("missing", "why"))
    assert "secret" not in write_plan(make_plan([entry], PlanOptions(), rate_hz=16000))


def test_a_text_and_its_audio_are_not_divided(speech: list[Clip], tmp_path: Path) -> None:
    import json

    import soundfile

    long = np.tile(speech[0].samples, 8)[: 16000 * 40]
    soundfile.write(tmp_path / "long.wav", long, 16000)
    soundfile.write(tmp_path / "short.wav", long[: 16000 * 8], 16000)
    lines = [{"audio": "long.wav", "text": "one"}, {"audio": "short.wav", "text": "two"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    plan = make_plan(find_sources([str(tmp_path / "m.jsonl")]), PlanOptions(block_s=4.0), rate_hz=16000)
    pieces = [piece for block in plan for piece in block.pieces]
    (short,) = [piece for piece in pieces if piece.given["text"] == "two"]
    assert short.declared_s == 8.0
    parts = [piece for piece in pieces if piece.given["text"] == "one"]
    assert len(parts) > 1
    assert {piece.given["text_s"] for piece in parts} == {40.0}
