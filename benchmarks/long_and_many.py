"""One file of ten hours within 2 GB of memory; a hundred thousand files of a second planned within a minute.

    python -m benchmarks.long_and_many many  [--files 100000]
    python -m benchmarks.long_and_many long  [--hours 10]   [--set segment.backend=none ...]

Real speech of ../shared/data, repeated. The files are written to a temporary folder (some GB) and deleted afterwards. Memory is
the sum over the command's processes of their peak resident sizes (VmHWM), which is no less than their peak together.

`long` sends all hours from plan to commit through decode and segment (`antiphon prepare`'s own function, with the first two of
its stages, in a process of its own: every utterance's audio is written, without a text), and then the first `--full-minutes` of
the same file through `antiphon prepare` with all its default stages, as a person would.
"""

import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.common import clips, machine, table
from pipeline.store import Store

RATE_HZ = 16000
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Measured:
    """A command's seconds, those of its processors, and its processes' peak resident memory."""

    took_s: float
    cpu_s: float
    memory_mb: float
    processes: int
    output: bytes


def watch(command: list[str], cwd: Path = ROOT) -> Measured:
    """Run a command, looking at its processes twice a second. Exits with its error where it fails."""
    peaks: dict[int, int] = {}
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=cwd)
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.5):
                for pid in family(process.pid):
                    try:
                        status = Path(f"/proc/{pid}/status").read_text()
                    except OSError:
                        continue
                    peak = [line for line in status.splitlines() if line.startswith("VmHWM:")]
                    if peak:
                        peaks[pid] = int(peak[0].split()[1])

        watcher = threading.Thread(target=look)
        watcher.start()
        code = process.wait()
        took_s = time.monotonic() - started
        done.set()
        watcher.join()
        output.seek(0)
        errors.seek(0)
        if code:
            raise SystemExit(f"{' '.join(command)} ended with {code}:\n{errors.read().decode()}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Measured(took_s, cpu_s, sum(peaks.values()) / 1024, len(peaks), output.read())


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def speech() -> np.ndarray:
    """Some minutes of many readers, with pauses of 0.5 s, int16 `[n]` at 16 kHz."""
    pause = np.zeros(RATE_HZ // 2, np.float32)
    parts = [part for clip in clips("librispeech-test-other.jsonl") for part in (clip.samples, pause)]
    return np.round(np.concatenate(parts) * 32767).astype(np.int16)


def write_many(folder: Path, count: int) -> None:
    """`count` wavs of one second each, no two alike, in folders of a thousand."""
    samples = speech()
    form = struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    head = b"RIFF" + struct.pack("<I", 36 + 2 * RATE_HZ) + b"WAVEfmt \x10\0\0\0" + form + b"data"
    head += struct.pack("<I", 2 * RATE_HZ)
    for i in range(count):
        if i % 1000 == 0:
            (folder / f"{i // 1000:05d}").mkdir(parents=True)
        at = i * 977 % (len(samples) - RATE_HZ)
        (folder / f"{i // 1000:05d}" / f"{i:07d}.wav").write_bytes(head + samples[at : at + RATE_HZ].tobytes())


def write_long(path: Path, seconds: float) -> None:
    samples = speech()
    left = round(seconds * RATE_HZ)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as stream:
        while left:
            part = samples[:left]
            for at in range(0, len(part), 60 * RATE_HZ):
                stream.write(part[at : at + 60 * RATE_HZ])
            left -= len(part)


def antiphon(command: str, config: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", command, str(config), *more]


def many(scratch: Path, count: int) -> list[list[object]]:
    write_many(scratch / "many", count)
    config = scratch / "many.yaml"
    config.write_text(f"sources: ['{scratch / 'many'}']\n")
    rows = []
    for turn in ("first", "again"):
        measured = watch(antiphon("plan", config))
        plan = [json.loads(line) for line in measured.output.splitlines()]
        pieces = sum(len(block["pieces"]) for block in plan)
        assert pieces == count, f"{pieces} pieces"
        assert abs(sum(block["seconds"] for block in plan) - count) < 1e-3 * count
        what = f"`plan`, {count:,} wavs of 1 s, {turn} time"
        rows.append(
            [
                what,
                f"{measured.took_s:.1f} s, {measured.cpu_s:.1f} s of processor",
                f"{measured.memory_mb:.0f} MB ({measured.processes} processes)",
            ]
        )
        print(rows[-1], flush=True)
    return rows


_FIRST_STAGES = """
import sys
from pipeline.config import load
from pipeline.prepare import plan_of, prepare, stages_of
settings = load(sys.argv[1], sys.argv[3:])
stages = stages_of(settings)[:2]
assert [stage.name for stage in stages] == ["decode", "segment"]
prepare(settings, plan_of(settings), stages, sys.argv[2])
"""


def long(scratch: Path, hours: float, full_minutes: float, assignments: list[str]) -> list[list[object]]:
    path, manifest, config, out = (scratch / name for name in ("long.flac", "long.jsonl", "long.yaml", "corpus"))
    write_long(path, max(hours * 3600, full_minutes * 60))
    config.write_text(f"sources: ['{manifest}']\nlimits: {{max_rejected_share: 1}}\n")
    sets = [part for assignment in assignments for part in ("--set", assignment)]
    first = [sys.executable, "-c", _FIRST_STAGES, str(config), str(out), *assignments]
    rows = []
    for what, seconds, command in [
        (" ".join(["decode, segment, commit", *assignments]), hours * 3600, first),
        ("all default stages", full_minutes * 60, antiphon("prepare", config, "--out", str(out), *sets)),
    ]:
        if not seconds:
            continue
        manifest.write_text(json.dumps({"audio": str(path), "duration": seconds}))
        measured = watch(command)
        commits = list(Store(str(out)).commits().values())
        seconds_in = sum(c.seconds_in for c in commits)
        assert abs(seconds_in - seconds) < 0.01, f"{seconds_in} s in, of {seconds} s"
        assert all(c.samples_in == c.samples_kept + sum(c.samples_rejected.values()) for c in commits)
        kept_s, rows_kept = sum(c.seconds_kept for c in commits), sum(c.rows for c in commits)
        rows.append(
            [
                f"{seconds / 3600:.2f} h in one flac, {what}: {len(commits)} blocks, {rows_kept} rows, {kept_s / 3600:.2f} h",
                f"{measured.took_s:.0f} s ({seconds / measured.took_s:.0f} x real time), {measured.cpu_s:.0f} s of processor",
                f"{measured.memory_mb:.0f} MB ({measured.processes} processes)",
            ]
        )
        print(rows[-1], flush=True)
        shutil.rmtree(out)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["long", "many"])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--full-minutes", type=float, default=10.0)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        scratch = Path(folder)
        if args.what == "many":  # noqa: SIM108
            rows = many(scratch, args.files)
        else:
            rows = long(scratch, args.hours, args.full_minutes, args.assignments)
    print("\n" + machine("av", "apache-beam", "numpy") + "\n")
    print(table(["what", "time", "peak memory"], rows))


if __name__ == "__main__":
    main()
