"""Word error rate and speed of the transcribe stage against openai-whisper's own `transcribe`, same weights, same clips.

python -m benchmarks.transcripts [--clips N]
"""

import argparse
import time

import jiwer

from benchmarks.common import Clip, clips, machine, table
from schemas import Block, Utterance
from transforms.normalize import normalize
from transforms.transcribe.stage import Transcribe, TranscribeOptions
from transforms.whisper_model import load_whisper


def by_stage(found: list[Clip], options: TranscribeOptions) -> tuple[list[str], float]:
    stage = Transcribe(options)
    stage.setup()
    block = Block(0, 16000)
    block.utterances = [
        Utterance(clip.line["id"], -1, 0, len(clip.samples), clip.samples, clip.rate_hz) for clip in found
    ]
    started = time.perf_counter()
    stage(block)
    return [u.text for u in block.utterances], time.perf_counter() - started


def by_upstream(found: list[Clip]) -> tuple[list[str], float]:
    model = load_whisper("whisper-tiny")
    started = time.perf_counter()
    texts = [model.transcribe(clip.samples, verbose=None)["text"] for clip in found]
    return texts, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, help="only the first N clips")
    found = clips("librispeech-test-other.jsonl", parser.parse_args().clips)
    seconds = sum(clip.seconds for clip in found)
    said = [normalize(clip.line["text"], "en") for clip in found]
    runs = {
        "openai-whisper `transcribe`, one file at a time": by_upstream(found),
        "antiphon, whisper": by_stage(found, TranscribeOptions()),
        "antiphon, moonshine": by_stage(found, TranscribeOptions(backend="moonshine")),
    }
    rows = []
    for name, (texts, took) in runs.items():
        rate = jiwer.wer(said, [normalize(text, "en") for text in texts])
        rows.append([name, f"{rate:.2%}", f"{seconds / took:.1f}"])
    print(machine("torch", "openai-whisper", "moonshine-voice"))
    print(
        f"{len(found)} clips of LibriSpeech test-other, {seconds:.0f} s; Whisper tiny; Whisper's English normalizer\n"
    )
    print(table(["recogniser", "WER", "x real time"], rows))


if __name__ == "__main__":
    main()
