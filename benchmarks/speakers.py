"""Who speaks when: diarization error rate on AMI meetings, beside one speaker for all that the same voice activity detector finds.

python -m benchmarks.speakers [--threshold D] [--sweep]

First recordings joined from the clips of one to four readers of LibriSpeech test-other, with no overlap, on which the threshold was
chosen; then the meetings.

The meetings are half minutes of AMI, whose reference turns overlap; overlap is scored. The grouping gives each moment one speaker;
where the overlap detector hears two, the speaker who is nearest in time is added ("and overlap"). Speech is what the VAD gives 0.5,
as the windows that are grouped, or a lower value for the turns alone. pyannote.metrics counts: missed speech, false alarm and
confusion, over the reference's speech, summed over all clips; the collar is left out of it on each side of a reference boundary.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate

from benchmarks.common import DATA, clips, machine, table
from transforms.segment import regions
from transforms.speaker.clustering import Turn, cluster, spoken, turns
from transforms.speaker.encoder import SpeakerEncoder, louder, starts
from transforms.speaker.fit_overlap import marked
from transforms.speaker.overlap import OverlapDetector, spans, with_second
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


def joined(count: int = 12) -> dict[str, tuple[np.ndarray, list[tuple[float, float, str]]]]:
    """Name -> samples at 16 kHz and turns: each of one to four readers twice, 2 to 12 s a turn, straight after one another."""
    by_reader = defaultdict(list)
    for clip in clips("librispeech-test-other.jsonl"):
        by_reader[clip.line["speaker"]].append(clip.samples)
    random, made = np.random.default_rng(0), {}
    for number in range(count):
        readers = random.choice(sorted(by_reader), int(random.integers(1, 5)), replace=False)
        samples, said, at = [], [], 0
        for reader in (*random.permutation(readers), *random.permutation(readers)):
            turn = by_reader[reader][int(random.integers(6))][: int(random.uniform(2, 12) * RATE_HZ)]
            samples.append(turn)
            said.append((at / RATE_HZ, (at + len(turn)) / RATE_HZ, str(reader)))
            at += len(turn)
        made[f"joined{number:02d}"] = (np.concatenate(samples), said)
    return made


def meetings() -> dict[str, tuple[np.ndarray, list[tuple[float, float, str]]]]:
    """Clip -> samples at 16 kHz and turns."""
    made = {}
    for clip, said in sorted(references().items()):
        samples, rate_hz = soundfile.read(DATA / "ami" / f"{clip}.flac", dtype="float32")
        assert rate_hz == RATE_HZ, rate_hz
        made[clip] = (samples, said)
    return made


LOW = 0.2
"""The lower threshold of the VAD."""


@dataclass
class Parts:
    """A recording before its windows are grouped.

    Attributes:
        first, embeddings: starts and embeddings `[W]` of the windows with speech. speech, more: bool `[T]` by steps of the VAD, at
        0.5 and at LOW. voices: probabilities `[T, 3]` of the overlap detector. took_s: by the processor, without the detector.
    """

    first: np.ndarray
    embeddings: np.ndarray
    speech: np.ndarray
    more: np.ndarray
    voices: np.ndarray
    length_s: float
    took_s: float


def parts(
    samples: np.ndarray, vad: SileroVad, encoder: SpeakerEncoder, detector: OverlapDetector, options: SpeakerOptions
) -> Parts:
    started = time.process_time()
    probabilities = vad.probabilities(samples, RATE_HZ)
    speech, more = (
        steps(regions(probabilities, threshold, HOP, len(samples)), len(probabilities)) for threshold in (0.5, LOW)
    )
    hop = round(options.hop_s * 100)
    first = np.array(starts(len(samples), hop))
    embeddings = encoder.windows([louder(samples)], hop)[0]
    kept = spoken(first, speech, HOP_S)
    took_s = time.process_time() - started
    voices = detector.voices(samples)
    return Parts(first[kept], embeddings[kept], speech, more, voices, len(samples) / RATE_HZ, took_s)


def steps(found: Sequence, count: int) -> np.ndarray:
    speech = np.zeros(count, bool)
    for span in found:
        speech[span.start // HOP : -(-span.end // HOP)] = True
    return speech


def grouped(
    found: Mapping[str, Parts], threshold: float, least: int, *, low: bool = False, overlap: float | None = None
) -> dict[str, list[Turn]]:
    """`low`: turns take in what only the lower VAD threshold calls speech. `overlap`: the detector's threshold."""
    made = {}
    for name, p in found.items():
        made[name] = turns(p.first, cluster(p.embeddings, threshold, least), p.more if low else p.speech, HOP_S)
        if overlap is not None:
            made[name] = with_second(made[name], spans(p.voices[:, 2], overlap))
    return made


def detected(reference: Mapping[str, Sequence], found: Mapping[str, Parts], threshold: float) -> tuple[float, float]:
    """(precision, recall) of the overlap detector by frames of 10 ms."""
    heard, both = [], []
    for name, p in found.items():
        count = np.zeros(len(p.voices), int)
        for start_s, end_s, _ in reference[name]:
            count[round(100 * start_s) : round(100 * end_s)] += 1
        heard.append(marked(p.voices[:, 2], threshold))
        both.append(count > 1)
    hits = (np.concatenate(heard) & np.concatenate(both)).sum()
    return hits / max(1, np.concatenate(heard).sum()), hits / max(1, np.concatenate(both).sum())


def error_rate(
    reference: Mapping[str, Sequence], found: Mapping[str, Sequence], lengths: Mapping[str, float], collar: float
) -> dict[str, float]:
    """Shares of the reference's speech over all clips: DER, missed, false alarm, confusion.

    Args:
        collar: s on each side of a boundary, half of what pyannote.metrics calls so.
    """
    metric = DiarizationErrorRate(collar=2 * collar, skip_overlap=False)
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
    parser.add_argument("--sweep", action="store_true", help="DER for thresholds from 0.3 to 0.5")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine("torch", "scipy", "pyannote.metrics"))
    vad, encoder = SileroVad(locate("silero-vad").path), SpeakerEncoder(locate(options.model).path)
    assert options.overlap is not None
    detector = OverlapDetector(locate(options.overlap).path, options.encoder)
    for what, recordings in (("joined readers", joined()), ("AMI meetings", meetings())):
        reference = {name: said for name, (_, said) in recordings.items()}
        found = {name: parts(samples, vad, encoder, detector, options) for name, (samples, _) in recordings.items()}
        lengths = {name: p.length_s for name, p in found.items()}
        total_s, took_s = sum(lengths.values()), sum(p.took_s for p in found.values())
        print(
            f"\n{what}: {len(lengths)}, {total_s:.0f} s; {total_s / took_s:.0f} times real time on one thread;", end=" "
        )
        print(f"{overlap(reference):.0%} of the reference is said while another one speaks\n")
        if args.sweep:
            for threshold in np.arange(0.3, 0.51, 0.02):
                made = grouped(found, float(threshold), options.least_windows)
                print(f"{threshold:.2f}  {error_rate(reference, made, lengths, 0.0)['DER']:.1%}")
            continue
        for threshold in (0.3, 0.5, 0.7):
            precision, recall = detected(reference, found, threshold)
            print(f"overlap at {threshold}: precision {precision:.1%}, recall {recall:.1%}")
        show(reference, found, lengths, args.threshold, options)


def overlap(reference: Mapping[str, Sequence]) -> float:
    """Share of the reference's speech that a second speaker, or a third, says at the same time."""
    all_s = sum(end - start for said in reference.values() for start, end, _ in said)
    union_s = sum(annotation(said).get_timeline().support().duration() for said in reference.values())
    return max(0.0, 1 - union_s / all_s)


def show(
    reference: Mapping[str, Sequence],
    found: Mapping[str, Parts],
    lengths: Mapping[str, float],
    threshold: float,
    options: SpeakerOptions,
) -> None:
    """Both tables of one set of recordings: over all of them, beside one speaker, and one by one."""
    at, least = options.overlap_threshold, options.least_windows
    made = grouped(found, threshold, least)
    one = {
        name: [Turn(*span, 0) for *span, _ in turns(p.first, np.zeros(len(p.first), int), p.speech, HOP_S)]
        for name, p in found.items()
    }
    ways = {
        "grouped": made,
        "grouped, and overlap": grouped(found, threshold, least, overlap=at),
        f"grouped, VAD at {LOW}": grouped(found, threshold, least, low=True),
        f"grouped, VAD at {LOW}, and overlap": grouped(found, threshold, least, low=True, overlap=at),
        "one speaker": one,
    }
    rows = []
    for collar in (0.0, 0.25):
        for name, said in ways.items():
            rates = error_rate(reference, said, lengths, collar)
            rows.append([collar, name, *(f"{rate:.1%}" for rate in rates.values())])
    print("\n" + table(["collar s", "speakers", "DER", "missed", "false alarm", "confusion"], rows), "\n")
    rows = []
    for name, length_s in lengths.items():
        rates = [error_rate(reference, said, {name: length_s}, 0.0)["DER"] for said in (made, one)]
        counts = [len({speaker for *_, speaker in said}) for said in (reference[name], made[name])]
        rows.append([name, *counts, *(f"{rate:.1%}" for rate in rates)])
    print(table(["recording", "speakers", "found", "DER", "DER of one speaker"], rows))


if __name__ == "__main__":
    main()
