"""Word error rate and speed of every transcribe backend beside openai-whisper's own `transcribe`: same clips, same Whisper weights.

python -m benchmarks.transcripts [--clips N] [--models FOLDER]

Speed is in seconds of processor time, on one thread, so that other work on the machine does not count. The last table says what
two recognisers' agreement tells of the error.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jiwer
import torch

from benchmarks.common import Clip, clips, machine, table
from schemas import Block, Utterance
from transforms.normalize import normalize
from transforms.transcribe.convert import to_ctranslate2, to_transformers
from transforms.transcribe.stage import Transcribe, TranscribeOptions, agreement
from transforms.whisper_model import load_whisper


def by_stage(found: list[Clip], options: TranscribeOptions) -> tuple[list[str], float]:
    stage = Transcribe(options)
    stage.setup()
    block = Block(0, 16000)
    block.utterances = [
        Utterance(clip.line["id"], -1, 0, len(clip.samples), clip.samples, clip.rate_hz) for clip in found
    ]
    started = time.process_time()
    stage(block)
    return [u.text for u in block.utterances], time.process_time() - started


def by_upstream(found: list[Clip]) -> tuple[list[str], float]:
    model = load_whisper("whisper-tiny")
    started = time.process_time()
    texts = [model.transcribe(clip.samples, verbose=None)["text"] for clip in found]
    return texts, time.process_time() - started


def converted(folder: Path) -> tuple[str, str]:
    """Whisper tiny in Hugging Face's and in CTranslate2's format, made where `folder` does not have them yet."""
    hf, ct2 = folder / "hf", folder / "ct2"
    if not hf.exists():
        to_transformers("whisper-tiny", hf)
    if not ct2.exists():
        to_ctranslate2("whisper-tiny", ct2)
    return str(hf), str(ct2)


def by_agreement(said: list[str], first: list[str], second: list[str]) -> str:
    """WER of `first` in the halves of the clips that agree more and less with `second`."""
    order = sorted(range(len(said)), key=lambda i: -agreement(first[i], second[i], "en"))
    half = len(order) // 2
    rows = []
    for name, members in (("more", order[:half]), ("less", order[half:])):
        values = [agreement(first[i], second[i], "en") for i in members]
        rate = jiwer.wer([said[i] for i in members], [normalize(first[i], "en") for i in members])
        rows.append([name, len(members), f"{min(values):.2f} to {max(values):.2f}", f"{rate:.2%}"])
    return table(["half that agrees", "clips", "agreement", "WER of the first"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, help="only the first N clips")
    parser.add_argument("--models", type=Path, help="folder to keep the converted checkpoints in")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = clips("librispeech-test-other.jsonl", given.clips)
    seconds = sum(clip.seconds for clip in found)
    said = [normalize(clip.line["text"], "en") for clip in found]
    with tempfile.TemporaryDirectory() as scratch:
        hf, ct2 = converted(given.models or Path(scratch))
        runs = {
            "whisper": TranscribeOptions(),
            "moonshine": TranscribeOptions(backend="moonshine"),
            "faster-whisper": TranscribeOptions(backend="faster-whisper", model=ct2),
            "transformers": TranscribeOptions(backend="transformers", model=hf),
        }
        print(machine("torch", "openai-whisper", "moonshine-voice", "faster-whisper", "ctranslate2", "transformers"))
        print(
            f"{len(found)} clips of LibriSpeech test-other, {seconds:.0f} s; Whisper tiny; Whisper's English normalizer\n"
        )
        heard = {"openai-whisper `transcribe`, one file at a time": by_upstream(found)}
        rows = [row(said, seconds, *item) for item in heard.items()]
        print(table(["recogniser", "WER", "x real time"], rows), flush=True)
        for name, options in runs.items():
            heard[name] = by_stage(found, options)
            print(f"| {' | '.join(row(said, seconds, f'antiphon, {name}', heard[name]))} |", flush=True)
    print("\n" + by_agreement(said, heard["whisper"][0], heard["moonshine"][0]))


def row(said: list[str], seconds: float, name: str, heard: tuple[list[str], float]) -> list[str]:
    texts, took = heard
    rate = jiwer.wer(said, [normalize(text, "en") for text in texts])
    return [name, f"{rate:.2%}", f"{seconds / took:.1f}"]


if __name__ == "__main__":
    main()
