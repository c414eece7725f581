"""Thousands of damaged recordings from decode to commit: nothing crashes, nothing hangs, no second is lost.

    python -m benchmarks.fuzz --mutations 5000 [--seed 0]

Real speech (the first seconds of ../shared/data/jfk.flac) is encoded in eight ways; each mutation flips bits, overwrites, cuts,
doubles, splices or rewrites header fields of one of them. The same seed gives the same files. Every file is planned, decoded,
cut into utterances and committed by the project's own stages; the text is given, so no model but the VAD runs.
"""

import argparse
import io
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import machine, table
from pipeline.plan import PlanOptions, make_plan
from pipeline.sources import Entry
from pipeline.store import Store
from tests.media import RATE_HZ, encode, voice
from transforms import contain
from transforms.decode import Decode, DecodeOptions
from transforms.segment import Segment, SegmentOptions
from transforms.stage import Stage
from transforms.transcribe.stage import Transcribe, TranscribeOptions

BATCH = 50
TIMEOUT_S = 20.0


@dataclass
class Report:
    """What came of the mutations."""

    files: int = 0
    kept: int = 0
    seconds_in: float = 0.0
    seconds_kept: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason -> files that have it."""
    slowest_s: float = 0.0
    """Of all batches, divided by their files."""
    decoder_mb: float = 0.0
    own_mb: float = 0.0


def originals(folder: Path) -> dict[str, bytes]:
    """The same speech in eight containers and codecs."""
    import soundfile
    import soxr

    samples = voice()
    wide = soxr.resample(samples, RATE_HZ, 48000)
    encode(folder / "a.wav", samples[None], RATE_HZ, "pcm_s16le")
    encode(folder / "a.flac", samples[None], RATE_HZ, "flac")
    encode(folder / "a.mp3", samples[None], RATE_HZ, "libmp3lame")
    encode(folder / "a.m4a", samples[None], RATE_HZ, "aac")
    encode(folder / "front.m4a", samples[None], RATE_HZ, "aac", options={"movflags": "+faststart"})
    encode(folder / "a.webm", wide[None], 48000, "libopus")
    soundfile.write(folder / "a.ogg", samples, RATE_HZ, format="OGG", subtype="VORBIS")
    soundfile.write(folder / "a.opus", samples, RATE_HZ, format="OGG", subtype="OPUS")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mutate(data: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """One to four kinds of damage."""
    made = bytearray(data)
    for _ in range(random.integers(1, 5)):
        if len(made) < 16:
            break
        at = int(random.integers(len(made)))
        length = int(random.integers(1, max(2, len(made) // 4)))
        match random.integers(7):
            case 0:  # single bits, anywhere
                for i in random.integers(0, len(made), random.integers(1, 200)):
                    made[i] ^= 1 << int(random.integers(8))
            case 1:  # a run of random bytes, of zeros or of ones
                fill = [random.bytes(length), bytes(length), b"\xff" * length][random.integers(3)]
                made[at : at + length] = fill[: len(made) - at]
            case 2:  # cut off
                del made[at:]
            case 3:  # a piece twice, or missing
                piece = made[at : at + length]
                made[at:at] = piece
                if random.integers(2):
                    del made[at : at + 2 * length]
            case 4:  # the head of one, the tail of another
                made[at:] = other[int(random.integers(len(other))) :]
            case 5:  # single bits of the header
                for i in random.integers(0, min(256, len(made)), random.integers(1, 8)):
                    made[i] ^= 1 << int(random.integers(8))
            case 6:  # a header's number: an extreme one
                field_at = int(random.integers(0, min(128, len(made) - 8)))
                value = [0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0xFFFF][random.integers(6)]
                made[field_at : field_at + 4] = value.to_bytes(4, ["little", "big"][random.integers(2)])
    return bytes(made)


def mutations(folder: Path, count: int, seed: int) -> Iterator[list[Path]]:
    """Batches of damaged files, written to `folder`; those of one batch are gone when the next comes."""
    (folder / "whole").mkdir()
    whole = originals(folder / "whole")
    names = sorted(whole)
    for first in range(0, count, BATCH):
        paths = []
        for i in range(first, min(count, first + BATCH)):
            random = np.random.default_rng([seed, i])
            name, other = (names[random.integers(len(names))] for _ in range(2))
            paths.append(folder / f"{i:06d}-{name}")
            paths[-1].write_bytes(mutate(whole[name], whole[other], random))
        yield paths
        for path in paths:
            path.unlink()


def run(count: int, seed: int, folder: Path) -> Report:
    """Send `count` mutations from plan to commit below `folder`. Raises AssertionError where one leaves no trace."""
    report = Report()
    stages: list[Stage] = [
        Decode(DecodeOptions(timeout_s=TIMEOUT_S)),
        Segment(SegmentOptions()),
        Transcribe(TranscribeOptions(backend="given", language="en")),
    ]
    for stage in stages:
        stage.setup()
    (folder / "files").mkdir()
    for number, paths in enumerate(mutations(folder / "files", count, seed)):
        started = time.monotonic()
        store = Store(str(folder / f"corpus-{number}"))
        entries = [Entry(path.name, str(path), path.name, given={"text": "and so"}) for path in paths]
        seen: set[str] = set()
        for block in make_plan(entries, PlanOptions(block_s=60), rate_hz=16000):
            for stage in stages:
                block = stage(block)
            commit = store.commit(block, "fuzz", ["parquet"])
            assert commit.samples_in == commit.samples_kept + sum(commit.samples_rejected.values())
            report.seconds_in += commit.seconds_in
            report.seconds_kept += commit.seconds_kept
            for name in commit.files:
                read = pq.read_table(io.BytesIO(Path(store.path(*name.split("/"))).read_bytes()))
                sources = set(read["source"].to_pylist())
                if name.startswith("data/"):
                    report.kept += len(sources)
                else:
                    pairs = set(zip(read["source"].to_pylist(), read["reason"].to_pylist(), strict=True))
                    report.reasons.update(reason for _, reason in pairs)
                seen |= sources
        lost = {path.name for path in paths} - seen
        assert not lost, f"neither a row nor a rejection: {sorted(lost)} (seed {seed})"
        report.files += len(paths)
        report.slowest_s = max(report.slowest_s, (time.monotonic() - started) / len(paths))
        for pid in contain.pids():
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            report.decoder_mb = max(report.decoder_mb, int(status["VmHWM"].split()[0]) / 1024)
        report.own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = run(args.mutations, args.seed, Path(scratch))
    took_s = time.monotonic() - started
    print(machine("av", "numpy", "onnxruntime"), end="\n\n")
    print(f"{report.files} damaged files (seed {args.seed}) in {took_s:.0f} s; {report.kept} gave a row")
    print(
        f"{report.seconds_in:.0f} s in = {report.seconds_kept:.0f} s kept + the rest rejected, to the sample in each block"
    )
    print(f"slowest batch of {BATCH}: {report.slowest_s * 1000:.0f} ms a file")
    print(f"peak resident memory: {report.own_mb:.0f} MB, and its decoder {report.decoder_mb:.0f} MB")
    print()
    print(table(["reason", "files"], [[f"`{reason}`", files] for reason, files in report.reasons.most_common()]))


if __name__ == "__main__":
    main()
