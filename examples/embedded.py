"""How what lies in `transforms/embedded` is fitted: a manifest, a corpus, seven fits.

python -m examples.embedded [--work FOLDER] [units] [codec] [taste] [align] [chars] [overlap]

Data: speechocean762's training set (2,500 sentences, 2.9 h, 125 speakers; CC BY 4.0), in the folder beside the project; for the
codec also the sentences that `examples.readings` reads aloud first, some three quarters of an hour. On two cores without a GPU:
some minutes for the corpus and the units, and on one core each a quarter of an hour for the codec and half an hour for TASTE;
the aligner's phone classifier takes some 8 minutes, its head of letters 15, the overlap detector 2.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas import Utterance
from transforms.resample import resample

ROOT = Path(__file__).resolve().parents[1]
SPEECH = ROOT.parent / "shared" / "data" / "speechocean762-train.jsonl"
EMBEDDED = ROOT / "transforms" / "embedded"
FILES = {
    "units": "antiphon-units.safetensors",
    "codec": "antiphon-codec.safetensors",
    "taste": "antiphon-taste.safetensors",
    "align": "antiphon-phones.safetensors",
    "chars": "antiphon-chars.safetensors",
    "overlap": "antiphon-overlap.safetensors",
}
RECIPES: dict[str, dict[str, Any]] = {
    # What the committed files were fitted with, where it is not the default; test_taste.py and test_codec.py compare.
    "taste": {
        "steps_text": 300,
        "steps_plain": 1200,
        "steps_quantised": 1500,
        "dropout": 0.1,
        "evaluate_every": 0,
        "bfloat16": True,
    },
    "sound": {"steps": 1200, "bfloat16": True},
    "codec": {
        "channels": 256,
        "decoder_blocks": 5,
        "steps": 2500,
        "heard_weight": 3.0,
        "heard_share": 0.6,
        "heard_crops": 6,
        "bfloat16": True,
    },
}
READINGS = 860
RATE_HZ = 16000
DATA = "speechocean762 train: 2,500 sentences, 2.9 h, 125 speakers (CC BY 4.0)"
DATA_CODEC = (
    f"{DATA}; {READINGS} sentences of LJSpeech (public domain) read by Kokoro-82M (Apache-2.0), 28 voices, 1.6 h"
)


def written(text: str) -> str:
    """The set's capitals as a recogniser writes them, since a tokenizer meets recognised text later: `WE CALL I` -> `We call I.`"""
    words = [
        "I" if word == "i" else word.replace("i'", "I'") if word.startswith("i'") else word
        for word in text.lower().split()
    ]
    return f"{words[0][:1].upper()}{words[0][1:]} {' '.join(words[1:])}".strip() + "."


def manifest(path: Path) -> None:
    """The set's own manifest with `written` texts and absolute paths."""
    lines = [json.loads(line) for line in SPEECH.read_text().splitlines()]
    fields = ({**line, "audio": str(SPEECH.parent / line["audio"]), "text": written(line["text"])} for line in lines)
    path.write_text("".join(json.dumps(f) + "\n" for f in fields))


def antiphon(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline.cli", *arguments], cwd=ROOT, check=True)


def fit(what: str, corpus: str, out: Path) -> None:
    options = {"data": DATA, **RECIPES.get(what, {})}
    sets = [word for name, value in options.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    antiphon("fit", what, corpus, "--out", str(out), *sets)


def codec_utterances(readings: Path) -> Iterator[Utterance]:
    """The set's recordings and the readings at 16 kHz. The codec's fit asks for sound alone, so no corpus is made of them."""
    import soundfile

    recordings = [SPEECH.parent / json.loads(line)["audio"] for line in SPEECH.read_text().splitlines()]
    for path in [*recordings, *sorted(readings.glob("*.flac"))]:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        samples = resample(samples.mean(axis=1), rate_hz, RATE_HZ)
        name = hashlib.sha256(path.name.encode()).hexdigest()[:16]
        yield Utterance(name, -1, 0, len(samples), samples, RATE_HZ)


def fit_codec(readings: Path, out: Path) -> None:
    from transforms.codec import fit as codec

    command = [sys.executable, "-m", "examples.readings", str(readings), "--sentences", str(READINGS)]
    subprocess.run(command, cwd=ROOT, check=True)
    options = codec.FitCodecOptions(path=out, data=DATA_CODEC, **RECIPES["codec"])
    print(codec.fit_codec(codec_utterances(readings), options, print))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("embedded"), help="takes the corpus (default ./embedded)")
    parser.add_argument("what", nargs="*", choices=[*FILES, []], help="all of them without one")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    manifest(work / "manifest.jsonl")
    settings = work / "config.yaml"
    settings.write_text(
        f"sources: [{json.dumps(str(work / 'manifest.jsonl'))}]\n"
        "segment: {backend: none, min_s: 0.5}\ntranscribe: {backend: given}\nalign: {backend: gmm}\n"
        # Learners' accents pull the alignment's score down, and the fits need no times.
        "filter: {min_align_score: null}\ncodec: null\n"
    )
    corpus = str(work / "corpus")
    for what in args.what or FILES:
        if what == "codec":
            fit_codec(work / "readings", EMBEDDED / FILES[what])
            continue
        # Prepared again before each fit: TASTE needs the units that were just fitted, and resuming costs nothing.
        without = ["--set", "taste=null", *(["--set", "units=null"] if what == "units" else [])]
        antiphon("prepare", str(settings), "--out", corpus, *without)
        out = EMBEDDED if what == "taste" else EMBEDDED / FILES[what]
        fit(what, corpus, out)
        if what == "taste":
            # What makes its codes sound is fitted on the codes of the tokenizer that was just written.
            antiphon("prepare", str(settings), "--out", str(work / "coded"))
            fit("sound", str(work / "coded"), EMBEDDED / "antiphon-taste-sound.safetensors")


if __name__ == "__main__":
    main()
