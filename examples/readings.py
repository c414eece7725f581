"""Read sentences aloud with Kokoro: clear speech in many voices and at many speeds, to fit on beside real speech.

python -m examples.readings FOLDER [--sentences N] [--processes N]

Text: the sentences of LJSpeech (public domain), in the folder beside the project, but for those whose recordings are used to
measure. Voices: the 28 of Kokoro-82M (Apache-2.0; `antiphon pull kokoro-82m`), in turn, each sentence once, at 0.75 to 1.35
times the voice's own speed. One process reads some three times as fast as it speaks. Started again, it goes on.
"""

import argparse
import csv
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from transforms.weights import locate

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
WORDS = range(4, 19)
"""Words of a sentence that is read: about 1.5 to 8 s."""
SPEEDS = (0.75, 1.35)


class Reading(NamedTuple):
    """One sentence, its voice, and its speed relative to the voice's own."""

    id: str
    text: str
    voice: str
    speed: float


def readings(n: int, voices: list[str]) -> list[Reading]:
    """The first `n` sentences in the order of their ids' hashes. A smaller `n` gives the same first ones."""
    measured = {json.loads(line)["audio"] for line in (SHARED / "ljspeech.jsonl").read_text().splitlines()}
    measured |= {path.name for path in (locate("ljspeech-sample").path / "wavs").iterdir()}
    left_out = {Path(name).stem for name in measured}
    with (SHARED / "text" / "ljspeech-sentences.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE) if row[0] not in left_out]
    chosen = [(hashlib.sha256(row[0].encode()).digest(), row) for row in rows if len(row[2].split()) in WORDS]
    chosen.sort(key=lambda pair: pair[0])
    slow, fast = SPEEDS
    return [
        Reading(row[0], row[2], voices[i % len(voices)], round(slow + (fast - slow) * digest[0] / 255, 2))
        for i, (digest, row) in enumerate(chosen[:n])
    ]


def read_aloud(part: list[Reading], folder: Path) -> None:
    """Write FOLDER/ID.flac, 24 kHz, for each that is not there yet."""
    import onnxruntime
    import soundfile

    from transforms.dialogue.kokoro import RATE_HZ, KokoroVoice
    from transforms.dialogue.speak import SpeakOptions

    onnxruntime.set_default_logger_severity(3)
    kokoro = KokoroVoice(SpeakOptions(backend="kokoro"), threads=1)
    for reading in part:
        path = folder / f"{reading.id}.flac"
        if not path.exists():
            samples, _ = kokoro.say(reading.text, reading.voice, 0, speed=reading.speed)
            partial_path = path.with_suffix(".part")
            soundfile.write(partial_path, samples, RATE_HZ, format="FLAC")
            partial_path.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sentences", type=int, default=860, help="how many (default 860: 1.6 h)")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    voices = sorted(path.stem for path in (locate("kokoro-82m").path / "voices").glob("*.bin"))
    chosen = readings(args.sentences, voices)
    parts = [chosen[i :: args.processes] for i in range(args.processes)]
    with ProcessPoolExecutor(args.processes) as pool:
        list(pool.map(partial(read_aloud, folder=folder), parts))
    lines = (
        {"audio": str(folder / f"{r.id}.flac"), "text": r.text, "speaker": f"kokoro-{r.voice}", "speed": r.speed}
        for r in chosen
    )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
