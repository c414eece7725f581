"""Decoders that crash, hang, stop or ask for too much cost one file, and the next one is decoded as if nothing had been."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from schemas import Block, Piece, Reason
from tests.conftest import ROOT
from tests.strikes import strike
from transforms import contain
from transforms.contain import DecoderError, decoder, limit_s
from transforms.decode import Decode, DecodeOptions
from transforms.decoder import MEMORY_BYTES, reason_of

RATE_HZ = 16000


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes of noise at 96 kHz: long enough to be caught at it."""
    path = tmp_path_factory.mktemp("contain") / "long.wav"
    soundfile.write(path, np.tile(np.random.default_rng(0).integers(-9999, 9999, 96000).astype(np.int16), 600), 96000)
    return path


@pytest.fixture
def fresh() -> None:
    """No decoder from the tests before, so that the one process there is, is the one of this test."""
    for one in contain._idle:
        one.stop()


def short_file(folder: Path, name: str = "short.wav") -> Path:
    soundfile.write(folder / name, np.full(RATE_HZ, 0.25), RATE_HZ)
    return folder / name


def decode(path: Path, seconds: float, **options: float) -> Block:
    block = Block(0, RATE_HZ, pieces=[Piece(path.name, str(path), "f", declared_s=seconds)])
    return Decode(DecodeOptions(**options))(block)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_fault_08_a_decoder_that_crashes_costs_one_file(
    fresh: None, long_file: Path, tmp_path: Path, what: signal.Signals
) -> None:
    thread = strike(what, long_file)
    block = decode(long_file, 600.0)
    thread.join()
    (rejection,) = block.rejections
    assert rejection.reason is Reason.CRASHED
    assert what.name in rejection.detail
    assert rejection.seconds == 600.0
    block.check_conserved()
    assert not decode(short_file(tmp_path), 1.0).rejections


def test_fault_08_a_decoder_that_hangs_costs_one_file_and_its_time(
    fresh: None, long_file: Path, tmp_path: Path
) -> None:
    thread = strike(signal.SIGSTOP, long_file)
    started = time.monotonic()
    block = decode(long_file, 600.0, timeout_s=1.5)
    thread.join()
    (rejection,) = block.rejections
    assert rejection.reason is Reason.TIMEOUT
    assert "no sign of life for 1.5 s" in rejection.detail
    assert time.monotonic() - started < 60
    block.check_conserved()
    assert not decode(short_file(tmp_path), 1.0).rejections


def test_a_decoder_slower_than_its_limit_is_ended(fresh: None, long_file: Path) -> None:
    request = {"path": str(long_file), "at": 0, "size": -1}
    with decoder() as process:
        list(process.ask("probe", timeout_s=60, limit_s=60, files=[(str(long_file), 0, -1)]))
        scan = process.ask("scan", timeout_s=60, limit_s=0.05, start=0, end=-1, **request)
        with pytest.raises(DecoderError, match="not done in the time it had") as caught:
            list(scan)
        assert caught.value.reason is Reason.TIMEOUT
        assert process.process is None
    assert limit_s(60, 3600, 1000) == 420
    assert limit_s(60, 0, 8_000_000) == 160


def test_one_process_is_used_again_and_one_that_died_between_two_files_is_replaced(fresh: None, tmp_path: Path) -> None:
    path = short_file(tmp_path)
    assert not decode(path, 1.0).rejections
    (first,) = contain.pids()
    assert not decode(path, 1.0).rejections
    assert contain.pids() == [first]
    os.kill(first, signal.SIGKILL)
    while Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert not decode(path, 1.0).rejections
    assert contain.pids() != [first]


def test_a_decoder_that_asks_for_too_much_memory_costs_one_file(fresh: None, long_file: Path, tmp_path: Path) -> None:
    with decoder() as process:
        list(process.ask("probe", timeout_s=60, limit_s=60, files=[(str(long_file), 0, -1)]))
        assert process.process is not None
        pid = process.process.pid
        assert resource.prlimit(pid, resource.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)
        now = 4096 * int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        resource.prlimit(pid, resource.RLIMIT_AS, (now + (1 << 20), now + (1 << 20)))
    (rejection,) = decode(long_file, 600.0).rejections
    assert rejection.reason in (Reason.OUT_OF_MEMORY, Reason.CRASHED)
    for one in contain._idle:
        one.stop()
    assert not decode(short_file(tmp_path), 1.0).rejections


def test_a_library_that_finds_no_room_is_out_of_memory_and_any_other_is_not() -> None:
    no_room = ImportError("av/subtitles/stream.abi3.so: failed to map segment from shared object")
    assert reason_of(no_room)[0] == Reason.OUT_OF_MEMORY.value
    assert reason_of(ImportError("No module named 'av'"))[0] == Reason.UNREADABLE.value


def test_a_decoder_that_cannot_start_is_no_fault_of_a_file(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contain, "_START", "import nothing_of_this_name")
    with pytest.raises(RuntimeError, match="exit code 1 before it was ready"):
        decode(short_file(tmp_path), 1.0)


def test_a_file_that_holds_more_than_it_claims_is_kept_up_to_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(60 * RATE_HZ, 0.25), RATE_HZ)
    block = decode(path, 1.0, max_undeclared_s=10.0)
    assert len(block.pieces[0].samples[-1]) == 10 * RATE_HZ
    (rejection,) = block.rejections
    assert (rejection.reason, rejection.start_s, rejection.end_s) == (Reason.UNDECLARED, 10.0, 60.0)
    assert block.samples_in == 60 * RATE_HZ
    assert not decode(path, 1.0).rejections


def test_decoders_of_several_threads_do_not_mix_up_their_samples(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.wav" for i in range(8)]
    for i, path in enumerate(paths):
        soundfile.write(path, np.full(RATE_HZ, i / 16), RATE_HZ, subtype="FLOAT")
    wrong: list[int] = []

    def check(i: int) -> None:
        for _ in range(5):
            samples = decode(paths[i], 1.0).pieces[0].samples[-1]
            wrong.extend([i] if not np.all(samples == np.float32(i / 16)) else [])

    threads = [threading.Thread(target=check, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_decoder_outlives_a_run_that_is_killed(long_file: Path) -> None:
    code = (
        "import sys; from transforms.contain import decoder, pids\n"
        "with decoder() as d:\n"
        f"    for head, payload in d.ask('decode', timeout_s=60, limit_s=60, path={str(long_file)!r}, at=0, size=-1,"
        " start=0, end=-1, most_s=1e9, channels='mix'):\n"
        "        print(pids()[0], flush=True); sys.stdin.read()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    run.kill()
    run.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the decoder lives on"
        time.sleep(0.05)


def test_relative_names_follow_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("a", 0.25), ("b", 0.5)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "x.wav", np.full(RATE_HZ, value), RATE_HZ)
        monkeypatch.chdir(tmp_path / name)
        block = decode(Path("x.wav"), 1.0)
        assert np.allclose(block.pieces[0].samples[-1], value, atol=1e-3)
