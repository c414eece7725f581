"""Speed of the TASTE stage, and what a padded window does to its codes.

OMP_NUM_THREADS=1 python -m benchmarks.taste_speed ../shared/data/librispeech-test-other.jsonl [--clips 20]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from schemas import Block, Utterance, Word
from transforms.taste.stage import Taste, TasteOptions

RATE_HZ = 16000


def read(manifest: Path, count: int) -> list[Utterance]:
    """The manifest's first clips with their given text; TASTE needs the words and not their times."""
    import soundfile

    utterances = []
    for text in manifest.read_text(encoding="utf-8").splitlines()[:count]:
        line: dict[str, Any] = json.loads(text)
        samples, rate_hz = soundfile.read(manifest.parent / line["audio"], dtype="float32")
        words = [Word(word, 0.0, 0.0, 0.0, "given") for word in line["text"].split()]
        utterances.append(
            Utterance(
                line["audio"], 0, 0, len(samples), samples, rate_hz, language="en", text=line["text"], words=words
            )
        )
    return utterances


def main() -> None:
    import torch

    from transforms.whisper_model import encoder_pass

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--clips", type=int, default=20)
    given = parser.parse_args()
    utterances = read(given.manifest, given.clips)
    seconds = sum(u.duration_s for u in utterances)
    stage = Taste(TasteOptions())
    stage.setup()

    def run(what: str) -> np.ndarray:
        clock, cpu = time.perf_counter(), time.process_time()
        stage(Block(0, RATE_HZ, utterances=list(utterances)))
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        print(f"{what}: {seconds / cpu:.0f} x real time in CPU time, {seconds / clock:.0f} x by the clock", flush=True)
        return np.concatenate([u.taste_codes for u in utterances if u.taste_codes is not None])

    print(f"{len(utterances)} clips, {seconds:.0f} s, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    for _ in range(3):
        own = run("own length")
    heard: Callable[..., Any] = encoder_pass(stage._model.encoder).layers
    stage._model.padded = True
    padded = run("padded to 30 s")
    stage._model.padded = False
    print(
        f"the same codes in a padded window, by book: {(own == padded).mean(0).round(3).tolist()} of {len(own)} words"
    )
    encoder_pass(stage._model.encoder).want("units", [len(stage._model.encoder.blocks)])
    for u in utterances:
        heard(u.samples, [len(stage._model.encoder.blocks)])
    run("heard before by the units stage")


if __name__ == "__main__":
    main()
