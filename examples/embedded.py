"""How what lies in `transforms/embedded` is fitted: manifests, corpora, seven fits.

python -m examples.embedded [--work FOLDER] [units] [codec] [taste] [align] [chars] [overlap]

Data: speechocean762's training set (2,500 sentences, 2.9 h, 125 speakers; CC BY 4.0), in the folder beside the project; for TASTE
also what `python -m examples.readings WORK/readings` makes first, for the codec what `python -m examples.voices WORK/voices` does.
On two cores without a GPU: some minutes for a corpus and the units, and on one core each an hour and a half for the codec and half
an hour for TASTE; the aligner's phone classifier takes some 8 minutes, its head of letters 15, the overlap detector 2.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from schemas import Utterance
from transforms.codec.fit import FitCodecOptions, fit_codec

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
    # What the committed files were fitted with, where it is not the default; tests compare (test_taste.py, test_codec.py).
    "taste": {
        "steps_text": 300,
        "steps_plain": 1000,
        "steps_quantised": 1700,
        "tokenizer_learning_rate": 6e-4,
        "bfloat16": True,
    },
    "sound": {"steps": 2000, "bfloat16": True},
    "codec": {"bfloat16": True, "vocoded_crops": 3409},
}
DATA = "speechocean762 train: 2,500 sentences, 2.9 h, 125 speakers (CC BY 4.0)"
BOTH = f"{DATA}; and 860 sentences of LJSpeech (public domain) read by Kokoro-82M (Apache-2.0), 1.6 h, 28 voices"
VOICES = f"{DATA}; and 8.5 h out of ten packages of Debian 12 (examples/voices.py; CC BY-SA 3.0, CC BY 3.0, GPL-2)"
DATA_OF = {"codec": VOICES, "taste": BOTH, "sound": BOTH}
WITHOUT = {what: ("taste=null", *(["units=null"] if what == "units" else [])) for what in FILES}
"""Stages that are left out of the corpus of a fit."""


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


def utterances(*manifests: Path) -> Iterator[Utterance]:
    """What manifests name, whole, as utterances whose ids come from the files' names: a codec needs neither text nor stages."""
    for manifest_path in manifests:
        for line in manifest_path.read_text().splitlines():
            path = manifest_path.parent / json.loads(line)["audio"]
            samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            name = hashlib.sha256(path.name.encode()).hexdigest()
            yield Utterance(name, -1, 0, len(samples), np.ascontiguousarray(samples.mean(axis=1)), rate_hz)


def antiphon(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline.cli", *arguments], cwd=ROOT, check=True)


def fit(what: str, corpus: str, out: Path) -> None:
    options = {"data": DATA_OF.get(what, DATA), **RECIPES.get(what, {})}
    sets = [word for name, value in options.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    antiphon("fit", what, corpus, "--out", str(out), *sets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("embedded"), help="takes the corpus (default ./embedded)")
    parser.add_argument("what", nargs="*", choices=[*FILES, []], help="all of them without one")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    manifest(work / "manifest.jsonl")
    for what in args.what or FILES:
        if what == "codec":
            options = FitCodecOptions(path=EMBEDDED / FILES[what], data=VOICES, **RECIPES[what])
            print(fit_codec(utterances(SPEECH, work / "voices" / "manifest.jsonl"), options, print))
            continue
        sources = [work / "manifest.jsonl"]
        if what == "taste":
            sources.append(work / "readings" / "manifest.jsonl")
        # Prepared again before each fit: TASTE needs the units that were just fitted, and resuming costs nothing.
        corpus = prepare(work / what if what == "taste" else work / "corpus", sources, *WITHOUT.get(what, ()))
        out = EMBEDDED if what == "taste" else EMBEDDED / FILES[what]
        fit(what, corpus, out)
        if what == "taste":
            # What makes its codes sound is fitted on the codes of the tokenizer that was just written.
            fit("sound", prepare(work / "coded", sources), EMBEDDED / "antiphon-taste-sound.safetensors")


def prepare(out: Path, sources: list[Path], *settings: str) -> str:
    """A corpus of the manifests' clips with given texts, word times, units and TASTE codes."""
    config = out.with_suffix(".yaml")
    config.write_text(
        f"sources: {json.dumps([str(source) for source in sources])}\n"
        "segment: {backend: none, min_s: 0.5}\ntranscribe: {backend: given}\nalign: {backend: gmm}\n"
        # Learners' accents pull the alignment's score down, and the fits need no times.
        "filter: {min_align_score: null}\ncodec: null\n"
    )
    antiphon("prepare", str(config), "--out", str(out), *(f"--set={setting}" for setting in settings))
    return str(out)


if __name__ == "__main__":
    main()
