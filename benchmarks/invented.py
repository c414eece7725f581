"""Words invented where nobody speaks: openai-whisper's own `transcribe` and this pipeline, same weights, same sounds.

python -m benchmarks.invented [--seconds N] [--kinds KIND ...] [--runs RUN ...]
"""

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from benchmarks.common import machine, table
from benchmarks.sounds import RATE_HZ, SPEECH_LIKE, Sound, sounds
from pipeline.config import Config
from pipeline.prepare import plan_of, stages_of
from transforms.filter import Filter
from transforms.segment import SegmentOptions
from transforms.whisper_model import load_whisper


@dataclass
class Heard:
    """What a run made of one sound: words and utterances kept, words heard before the filter, and the filter's reasons."""

    kept: int = 0
    utterances: int = 0
    heard: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)


def by_upstream(found: Sequence[Sound]) -> list[Heard]:
    """openai-whisper's `transcribe` with its defaults; its segments with a word count as utterances."""
    model = load_whisper("whisper-tiny")
    results = []
    for sound in found:
        texts = [s["text"] for s in model.transcribe(sound.samples, verbose=None, fp16=False)["segments"]]
        texts = [text.strip() for text in texts if any(map(str.isalnum, text))]
        words = sum(map(_words, texts))
        results.append(Heard(words, len(texts), words, Counter(), texts))
    return results


def by_pipeline(found: Sequence[Sound], *, vad: bool) -> list[Heard]:
    """Every stage from plan to filter, on files; `vad` False reads every file as one utterance."""
    results: dict[str, Heard] = defaultdict(Heard)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{i:03d}.wav") for i in range(len(found))]
        for path, sound in zip(paths, found, strict=True):
            soundfile.write(path, sound.samples, RATE_HZ)
        segment = SegmentOptions() if vad else SegmentOptions(backend="none")
        config = Config(sources=tuple(paths), segment=segment, units=None, codec=None, taste=None)
        stages = stages_of(config)
        for stage in stages:
            stage.setup()
        for block in plan_of(config):
            for stage in stages:
                if isinstance(stage, Filter):
                    for u in block.utterances:
                        results[u.source].heard += _words(u.text)
                        results[u.source].texts.append(u.text)
                block = stage(block)
            block.check_conserved()
            for u in block.utterances:
                results[u.source].kept += _words(u.text)
                results[u.source].utterances += 1
            for rejection in block.rejections:
                results[rejection.source].reasons[rejection.reason] += 1
    return [results[path] for path in paths]


def _words(text: str) -> int:
    return sum(any(map(str.isalnum, word)) for word in text.split())


RUNS: dict[str, Callable[[Sequence[Sound]], list[Heard]]] = {
    "openai-whisper": by_upstream,
    "antiphon": lambda found: by_pipeline(found, vad=True),
    "antiphon, no VAD": lambda found: by_pipeline(found, vad=False),
}


def report(found: Sequence[Sound], runs: dict[str, list[Heard]]) -> str:
    """Kept words / utterances with words, by kind; where the filter had words to judge, those in brackets."""
    kinds = list(dict.fromkeys(sound.kind for sound in found))
    silent = [kind for kind in kinds if kind not in SPEECH_LIKE]
    groups = {kind: {kind} for kind in silent} | {"all without speech": set(silent)}
    groups |= {kind: {kind} for kind in kinds if kind in SPEECH_LIKE}
    rows = []
    for name, members in groups.items():
        seconds = sum(len(s.samples) / RATE_HZ for s in found if s.kind in members)
        row = [name, f"{seconds:.0f}"]
        for heard in runs.values():
            own = [h for h, sound in zip(heard, found, strict=True) if sound.kind in members]
            kept, held = sum(h.kept for h in own), sum(h.heard for h in own)
            row.append(f"{kept} / {sum(h.utterances for h in own)}" + (f" ({held} heard)" if held > kept else ""))
        rows.append(row)
    return table(["sound", "s", *runs], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each sound")
    parser.add_argument("--kinds", nargs="+", help="only these kinds")
    parser.add_argument("--runs", nargs="+", choices=[*RUNS], default=[*RUNS], help="only these runs")
    arguments = parser.parse_args()
    found = [s for s in sounds(arguments.seconds) if not arguments.kinds or s.kind in arguments.kinds]
    runs = {name: run(found) for name, run in RUNS.items() if name in arguments.runs}
    print(machine("torch", "openai-whisper", "onnxruntime"))
    print(f"{len(found)} sounds of {arguments.seconds:.0f} s; Whisper tiny; words kept / utterances with words\n")
    print(report(found, runs))
    for name, heard in runs.items():
        reasons = sum((h.reasons for h in heard), Counter[str]())
        print(f"\n{name}: {dict(reasons.most_common())}")
        for sound, h in zip(found, heard, strict=True):
            if h.heard:
                print(f"  {sound.kind}, {sound.name}: kept {h.kept} of {h.heard}: {' | '.join(h.texts)[:100]!r}")


if __name__ == "__main__":
    main()
