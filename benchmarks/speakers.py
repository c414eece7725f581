"""Who speaks when: diarization error rate on AMI meetings, beside one speaker for all that the same voice activity detector finds.

python -m benchmarks.speakers [--threshold D] [--sweep]

The clips are half minutes of AMI, whose reference turns overlap; overlap is scored. The grouping gives each moment one speaker, so
what a second speaker says at the same time is always missed. pyannote.metrics counts: missed speech, false alarm and confusion,
over the reference's speech, summed over all clips; `collar` is the seconds around a reference boundary that are left out, in all.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import soundfile
import torch
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate

from benchmarks.common import DATA, machine, table
from transforms.segment import regions
from transforms.speaker.clustering import Turn, cluster, spoken, turns
from transforms.speaker.encoder import SpeakerEncoder, louder, starts
from transforms.speaker.stage import SpeakerOptions
from transforms.vad import HOP, HOP_S, RATE_HZ, SileroVad
from transforms.weights import locate


def references() -> dict[str, list[tuple[float, float, str]]]:
    """Clip -> (start_s, end_s, speaker) of each turn of speakers.rttm."""
    found = defaultdict(list)
    for line in (DATA / "ami" / "speakers.rttm").read_text(encoding="utf-8").splitlines():
        _, clip, _, start, length, _, _, speaker, *_ = line.split()
        found[clip].append((float(start), float(start) + float(length), speaker))
    return dict(found)


def annotation(spoken_turns: Sequence[tuple[float, float, object]]) -> Annotation:
    made = Annotation()
    for i, (start_s, end_s, speaker) in enumerate(spoken_turns):
        made[Segment(start_s, end_s), i] = str(speaker)
    return made


def parts(clip: str, vad: SileroVad, encoder: SpeakerEncoder, options: SpeakerOptions) -> tuple:
    """Windows' starts and embeddings of one clip's speech, its speech by step, its length in seconds, and the time it took."""
    samples, rate_hz = soundfile.read(DATA / "ami" / f"{clip}.flac", dtype="float32")
    assert rate_hz == RATE_HZ, rate_hz
    started = time.process_time()
    speech = np.zeros(-(-len(samples) // HOP), bool)
    for span in regions(vad.probabilities(samples, rate_hz), 0.5, HOP, len(samples)):
        speech[span.start // HOP : -(-span.end // HOP)] = True
    hop = round(options.hop_s * 100)
    first = np.array(starts(len(samples), hop))
    embeddings = encoder.windows([louder(samples)], hop)[0]
    kept = spoken(first, speech, HOP_S)
    return first[kept], embeddings[kept], speech, len(samples) / rate_hz, time.process_time() - started


def grouped(parts_: Mapping[str, tuple], threshold: float, least: int) -> dict[str, list[Turn]]:
    return {
        clip: turns(first, cluster(embeddings, threshold, least), speech, HOP_S)
        for clip, (first, embeddings, speech, *_) in parts_.items()
    }


def error_rate(
    reference: Mapping[str, Sequence], found: Mapping[str, Sequence], lengths: Mapping[str, float], collar: float
) -> dict[str, float]:
    """Shares of the reference's speech over all clips: DER, missed, false alarm, confusion."""
    metric = DiarizationErrorRate(collar=collar, skip_overlap=False)
    for clip, length_s in lengths.items():
        metric(annotation(reference[clip]), annotation(found[clip]), uem=Timeline([Segment(0, length_s)]))
    total = metric["total"]
    return {"DER": abs(metric)} | {
        name: metric[name] / total for name in ("missed detection", "false alarm", "confusion")
    }


def main() -> None:
    options = SpeakerOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--threshold", type=float, default=options.threshold, help="cosine distance; the stage's by default"
    )
    parser.add_argument("--sweep", action="store_true", help="every threshold from 0.1 to 0.5 on the trn clips")
    args = parser.parse_args()
    torch.set_num_threads(1)
    reference = references()
    vad, encoder = SileroVad(locate("silero-vad").path), SpeakerEncoder(locate(options.model).path)
    found = {clip: parts(clip, vad, encoder, options) for clip in sorted(reference)}
    lengths = {clip: made[3] for clip, made in found.items()}
    groups = {
        "trn": {clip: s for clip, s in lengths.items() if clip.startswith("trn")},
        "dev, tst": {clip: s for clip, s in lengths.items() if not clip.startswith("trn")},
        "all": lengths,
    }
    print(machine("torch", "scipy", "pyannote.metrics"))
    print(f"{len(lengths)} clips of AMI, {sum(lengths.values()):.0f} s; ", end="")
    print(f"{sum(lengths.values()) / sum(made[4] for made in found.values()):.0f} times real time on one thread\n")
    one = {
        clip: [(a, b, 0) for a, b, _ in turns(m[0], np.zeros(len(m[0]), int), m[2], HOP_S)] for clip, m in found.items()
    }
    if args.sweep:
        for threshold in np.arange(0.1, 0.51, 0.02):
            row = []
            for least in (1, 2, 3, 4, 5, 7):
                made = grouped(found, float(threshold), least)
                row.append(f"{error_rate(reference, made, groups['trn'], 0.0)['DER']:.1%}")
            print(f"{threshold:.2f}", *row)
        return
    made = grouped(found, args.threshold, options.least_windows)
    rows = []
    for collar in (0.0, 0.25):
        for clips, chosen in groups.items():
            for name, said in (("grouped", made), ("one speaker", one)):
                rates = error_rate(reference, said, chosen, collar)
                rows.append([clips, collar, name, *(f"{rate:.1%}" for rate in rates.values())])
    print(table(["clips", "collar s", "speakers", "DER", "missed", "false alarm", "confusion"], rows), "\n")
    counts = [
        [clip, len({who for *_, who in reference[clip]}), len({turn.speaker for turn in made[clip]}),
         *(f"{error_rate(reference, said, {clip: s}, 0.0)['DER']:.1%}" for said in (made, one))]
        for clip, s in lengths.items()
    ]  # fmt: skip
    print(table(["clip", "speakers", "found", "DER", "DER of one speaker"], counts))


if __name__ == "__main__":
    main()
