"""Do TASTE codes carry how a sentence is said? Kept-out speakers said again with codes and from the text alone; codes exchanged.

python -m benchmarks.taste CORPUS [--model NAME] [--clips N] [--heard N] [--read] [--picture FILE]

CORPUS has text, word times and units (`python -m examples.embedded taste` makes one). `--picture` needs matplotlib.
"""

import argparse
import itertools
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.codecs import word_error_rate
from benchmarks.common import machine, table
from pipeline.fit import utterances
from schemas import Utterance
from transforms.espeak import speak
from transforms.resample import resample
from transforms.taste.aggregator import RATE_HZ
from transforms.taste.examples import heldout_speakers
from transforms.taste.fit_sound import frame_words
from transforms.taste.speech import Said, Speech
from transforms.transcribe.stage import Transcribe, TranscribeOptions

TOLERANCE_S = 0.05
"""Two durations of a word agree within so much."""

SENTENCE = "We met in the garden and talked about the old house near the river"
PHRASE = (5, 10)
"""Words of SENTENCE whose codes are exchanged: "and talked about the old"."""


class Again(NamedTuple):
    """Seconds of each word of a sentence said again, `[W]`, beside those of the original: words themselves, and each with the
    pause after it. units: bool `[T]`, for each frame of the original, whether the frame said again at as long a time after the
    beginning of its word has the same unit; False where the word is over by then."""

    made_s: np.ndarray
    real_s: np.ndarray
    made_paused_s: np.ndarray
    real_paused_s: np.ndarray
    units: np.ndarray


def real_durations(utterance: Utterance) -> np.ndarray:
    """float64 `[W]`: seconds from the start of each word to that of the next, the first from the beginning, the last to the end."""
    starts = [word.start_s for word in utterance.words]
    return np.diff([0.0, *starts[1:], utterance.duration_s])


def codes_of(speech: Speech, samples: np.ndarray, rate_hz: int, text: str) -> np.ndarray:
    return speech.model.codes(resample(samples, rate_hz, RATE_HZ), text, "en").astype(np.int64)


def consistency(found: list[Again]) -> list[str]:
    """Share of words within the tolerance, of words with their pauses, of units, and the correlation of durations of the
    utterances."""
    made, real, made_paused, real_paused, units = (np.concatenate(column) for column in zip(*found, strict=True))
    totals = np.corrcoef([a.made_paused_s.sum() for a in found], [a.real_paused_s.sum() for a in found])[0, 1]
    near = np.abs(made - real) <= TOLERANCE_S + 1e-9
    near_paused = np.abs(made_paused - real_paused) <= TOLERANCE_S + 1e-9
    return [f"{near.mean():.3f}", f"{near_paused.mean():.3f}", f"{units.mean():.3f}", f"{totals:.2f}"]


def said_again(speech: Speech, u: Utterance, codes: np.ndarray | None, voice: np.ndarray) -> Again:
    """How long each word of an utterance lasts when it is said again, and what is heard then."""
    said, units, words = speech.say(u.text, codes, voice), *real_units(u)
    same = []
    for word in range(len(u.words)):
        real, again = units[words == word], said.units[said.words == word]
        there = min(len(real), len(again))
        same.append(np.append(real[:there] == again[:there], np.zeros(len(real) - there, dtype=bool)))
    made_s = speech.word_lengths_s(u.text, codes, voice, pauses=False)
    real_s = np.array([w.end_s - w.start_s for w in u.words])
    return Again(made_s, real_s, said.word_durations_s(len(u.words)), real_durations(u), np.concatenate(same))


def real_units(u: Utterance) -> tuple[np.ndarray, np.ndarray]:
    """The unit of each frame, and the word that it belongs to, int64 `[T]` each."""
    units = np.repeat(u.units, u.unit_run_lengths).astype(np.int64)
    return units, frame_words([word.start_s for word in u.words], len(units))


def error_rate(heard: list[tuple[str, np.ndarray, int]], recogniser: Transcribe) -> str:
    """Word error rate of (text, samples, rate) by the recogniser."""
    sounds = [resample(samples, rate_hz, RATE_HZ) for _, samples, rate_hz in heard]
    return f"{word_error_rate([text for text, _, _ in heard], sounds, recogniser):.1%}"


def reconstruct(speech: Speech, kept: list[Utterance], n_heard: int) -> str:
    """The table of what comes back with codes, from the text alone, and from the real units (the sound network's share)."""
    recogniser = Transcribe(TranscribeOptions())
    if n_heard:
        recogniser.setup()
    some = kept[:: max(1, len(kept) // n_heard)][:n_heard] if n_heard else []
    voices = {u.id: speech.voice(u) for u in kept}
    heard_codes = {u.id: codes_of(speech, u.samples, u.rate_hz, u.text) for u in kept}
    original = [(u.text, u.samples, u.rate_hz) for u in some]
    rows = [["the original", "", "", "", "", error_rate(original, recogniser) if some else ""]]
    for name in ("text and codes", "text alone"):
        coded = {u.id: heard_codes[u.id] if name == "text and codes" else None for u in kept}
        found = [said_again(speech, u, coded[u.id], voices[u.id]) for u in kept]
        heard = []
        for u in some:
            said = speech.say(u.text, coded[u.id], voices[u.id])
            heard.append((u.text, speech.samples(said, coded[u.id], voices[u.id]), speech.rate_hz))
        rows.append([name, *consistency(found), error_rate(heard, recogniser) if some else ""])
    if some:
        own = [again(speech, u, heard_codes[u.id], voices[u.id]) for u in some]
        rows.append(["its own units and codes", "", "", "", "", error_rate(own, recogniser)])
    return table(
        ["said again from", "words within 50 ms", "with the pause after", "units", "r of lengths", "WER"], rows
    )


def again(speech: Speech, u: Utterance, codes: np.ndarray, voice: np.ndarray) -> tuple[str, np.ndarray, int]:
    """An utterance's own units and codes as sound."""
    return u.text, speech.samples(Said(*real_units(u)), codes, voice), speech.rate_hz


def exchanged(mine: np.ndarray, other: np.ndarray, phrase: tuple[int, int]) -> np.ndarray:
    """`[W, R]` codes with those of a phrase, words a to b, taken from another reading."""
    first, last = phrase
    return np.concatenate([mine[:first], other[first:last], mine[last:]])


def exchange_by_tts(speech: Speech) -> dict[str, np.ndarray]:
    """Seconds of each word of SENTENCE, said slowly and quickly by espeak-ng, and with the phrase's codes exchanged."""
    read = {name: speak(SENTENCE + ".", words_per_minute=wpm) for name, wpm in (("slow", 110), ("quick", 230))}
    codes = {name: codes_of(speech, *sound, SENTENCE) for name, sound in read.items()}
    samples, rate_hz = read["slow"]
    voice = speech.voice(Utterance("tts", -1, 0, len(samples), samples, rate_hz))
    return {
        "slow": speech.word_lengths_s(SENTENCE, codes["slow"], voice),
        "slow, phrase quick": speech.word_lengths_s(SENTENCE, exchanged(codes["slow"], codes["quick"], PHRASE), voice),
        "quick, phrase slow": speech.word_lengths_s(SENTENCE, exchanged(codes["quick"], codes["slow"], PHRASE), voice),
        "quick": speech.word_lengths_s(SENTENCE, codes["quick"], voice),
    }


def by_tts(u: Utterance) -> bool:
    """Whether it is one of `examples.readings`."""
    return str(u.given.get("speaker")).startswith("kokoro-")


def pairs_of_readings(read: list[Utterance]) -> list[tuple[Utterance, Utterance]]:
    """Two readings of one text of six words or more, by real readers."""
    by_text: dict[str, list[Utterance]] = defaultdict(list)
    for u in read:
        if len(u.words) >= 6 and not by_tts(u):
            by_text[u.text].append(u)
    return [p for group in by_text.values() for p in itertools.combinations(group, 2)]


def read_by_tts(kept: list[Utterance], speed: float = 1.3) -> list[tuple[Utterance, Utterance]]:
    """Each real reading of six words or more of a kept-out speaker, and the same sentence read quickly by Kokoro."""
    from transforms.align.gmm import GmmAligner
    from transforms.align.stage import AlignOptions
    from transforms.dialogue.kokoro import KokoroVoice
    from transforms.dialogue.speak import SpeakOptions

    kokoro, aligner = KokoroVoice(SpeakOptions(backend="kokoro"), threads=1), GmmAligner(AlignOptions(backend="gmm"))
    found = []
    for u in kept:
        if len(u.words) >= 6 and not by_tts(u):
            samples = resample(*kokoro.say(u.text, "af_heart", 0, speed), RATE_HZ)
            words = aligner.align(samples, [word.text for word in u.words], "en")
            found.append((u, Utterance("kokoro", 0, 0, len(samples), samples, RATE_HZ, text=u.text, words=words)))
    return found


def exchange_by_readers(speech: Speech, pairs: list[tuple[Utterance, Utterance]], most: int) -> str:
    """The pairs of readings of one text that differ most in speed: how the length of its middle third follows the codes."""
    if not pairs:
        return ""
    phrases = [(len(a.words) // 3, 2 * len(a.words) // 3) for a, _ in pairs]

    def seconds(durations: np.ndarray, phrase: tuple[int, int]) -> float:
        return float(durations[phrase[0] : phrase[1]].sum())

    ratios = [
        abs(np.log(seconds(real_durations(a), p) / seconds(real_durations(b), p)))
        for (a, b), p in zip(pairs, phrases, strict=True)
    ]
    inside, outside, real = [], [], []
    for at in np.argsort(ratios)[::-1][:most]:
        (a, b), phrase = pairs[at], phrases[at]
        mine, other = (codes_of(speech, u.samples, u.rate_hz, u.text) for u in (a, b))
        voice = speech.voice(a)
        before = speech.word_lengths_s(a.text, mine, voice)
        after = speech.word_lengths_s(a.text, exchanged(mine, other, phrase), voice)
        real.append(np.log(seconds(real_durations(b), phrase) / seconds(real_durations(a), phrase)))
        inside.append(np.log(seconds(after, phrase) / seconds(before, phrase)))
        rest_before, rest_after = before.sum() - seconds(before, phrase), after.sum() - seconds(after, phrase)
        outside.append(np.log(rest_after / rest_before))
    same = float(np.mean(np.sign(inside) == np.sign(real)))
    rows = [
        ["the readings themselves, phrase", f"{np.exp(np.mean(np.abs(real))):.2f}", "", ""],
        ["codes exchanged, phrase", f"{np.exp(np.mean(np.sign(real) * inside)):.2f}", f"{same:.0%}",
         f"{np.corrcoef(real, inside)[0, 1]:.2f}"],
        ["codes exchanged, other words", f"{np.exp(np.mean(np.sign(real) * outside)):.2f}", "",
         f"{np.corrcoef(real, outside)[0, 1]:.2f}"],
    ]  # fmt: skip
    head = [f"{len(inside)} pairs of readings", "longer over shorter", "right direction", "r with the real ratio"]
    return table(head, rows)


def draw(durations: dict[str, np.ndarray], path: str) -> None:
    """One line of boxes for each reading, a box a word; the exchanged phrase in another colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 3.2))
    words = SENTENCE.split()
    for row, (name, lengths) in enumerate(durations.items()):
        starts = np.cumsum(lengths) - lengths
        for w, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            phrase = PHRASE[0] <= w < PHRASE[1]
            slow = name.startswith("slow") != (phrase and "phrase" in name)
            axes.barh(row, length, left=start, height=0.7, color="#4477aa" if slow else "#ee9944", edgecolor="white")
            axes.text(
                start + length / 2, row, words[w], ha="center", va="center", fontsize=7, rotation=0 if slow else 60
            )
        first, last = starts[PHRASE[0]], starts[PHRASE[1] - 1] + lengths[PHRASE[1] - 1]
        axes.plot([first, first, last, last], [row + 0.36, row + 0.44, row + 0.44, row + 0.36], color="black", lw=0.8)
    axes.set_yticks(range(len(durations)), list(durations))
    axes.invert_yaxis()
    axes.set_xlabel("s; blue: codes of the slow reading, orange: of the quick one")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--model", default="antiphon-taste")
    parser.add_argument("--clips", type=int, default=60, help="sentences of kept-out speakers")
    parser.add_argument("--heard", type=int, default=20, help="of them as sound, for the word error rate")
    parser.add_argument("--pairs", type=int, default=30, help="pairs of readers of one sentence")
    parser.add_argument("--read", action="store_true", help="exchange with what Kokoro reads, which must be pulled")
    parser.add_argument("--picture", help="png file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    speech = Speech.load(args.model, "whisper-tiny")
    everybody = list(utterances(args.corpus))
    out = heldout_speakers([str(u.given.get("speaker") or u.source) for u in everybody], 0.05)
    kept = [u for u in everybody if str(u.given.get("speaker") or u.source) in out and u.words]
    print(machine("torch"))
    durations = exchange_by_tts(speech)
    a, b = PHRASE
    rows = [
        [name, f"{d[a:b].sum():.2f}", f"{d[:a].sum() + d[b:].sum():.2f}", f"{d.sum():.2f}"]
        for name, d in durations.items()
    ]
    print(
        table(["codes (espeak-ng, 110 and 230 words a minute)", "phrase, s", "other words, s", "all, s"], rows),
        flush=True,
    )
    if args.picture:
        draw(durations, args.picture)
    # Hardly two of those kept out read the same sentence: these readers may be among those fitted on.
    readers = exchange_by_readers(speech, pairs_of_readings(everybody), args.pairs)
    print(f"\n{readers or 'no sentence of six words or more was read twice by real readers'}\n", flush=True)
    if args.read:
        print("real readers kept out, and the same sentence read quickly by Kokoro\n")
        print(exchange_by_readers(speech, read_by_tts(kept), args.pairs), flush=True)
    some = kept[:: -(-len(kept) // args.clips)]
    print(f"{len(some)} of {len(kept)} sentences of {len(out)} speakers kept out; WER on {args.heard}\n", flush=True)
    print(reconstruct(speech, some, args.heard))


if __name__ == "__main__":
    main()
