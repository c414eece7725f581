"""Word boundaries against references: every aligner and the peers that install, on the same clips in one run.

python -m benchmarks.alignment [--clips N] [--long MINUTES]

The text is what Whisper tiny recognises, scored where it matches the reference's words; the references are the Montreal Forced
Aligner's (LJSpeech). `--long` joins clips to a recording of that many minutes, whose times are those of the clips.
"""

import argparse
import difflib
import io
import itertools
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

# Before numba is imported: its parallel loops, which openai-whisper's word timestamps use, set torch's threads to numba's.
os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
import torch

from benchmarks.common import Clip, clips, machine, table
from schemas import Word
from transforms.align.g2p import Lexicon
from transforms.align.head import PHONES, STATES, Head
from transforms.align.placing import Units, choose, emissions
from transforms.align.stage import BACKENDS, RATE_HZ, AlignOptions
from transforms.align.words import Time, spoken, tokens_of, written
from transforms.registry import load
from transforms.resample import resample
from transforms.weights import locate
from transforms.whisper_model import load_whisper

Given = Callable[[np.ndarray, str], list[Word]]


def pairs(words: Sequence[Word], reference: Sequence[dict]) -> list[tuple[Word, dict]]:
    """Words and reference words that are said alike, in order."""
    ours = ["".join(spoken(word.text)) for word in words]
    theirs = ["".join(spoken(line["w"])) for line in reference]
    blocks = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return [(words[b.a + i], reference[b.b + i]) for b in blocks for i in range(b.size)]


def ours(backend: str) -> Given:
    aligner = load(BACKENDS, backend, "align.backend")(AlignOptions(backend=backend))
    return lambda samples, text: aligner.align(samples, text.split(), "en")


def whisper_timestamps(samples: np.ndarray, text: str) -> list[Word]:
    """openai-whisper's own words, from its attention; `text` is not asked for, since it writes its own."""
    heard = load_whisper("whisper-tiny").transcribe(samples, word_timestamps=True, language="en", fp16=False)
    found = [word for segment in heard["segments"] for word in segment["words"]]
    return [Word(w["word"].strip(), float(w["start"]), float(w["end"]), float(w["probability"]), "ctc") for w in found]


class CppCore:
    """ctc-forced-aligner's C++ core on the emissions of the phone classifier, one symbol a phone, silence as the blank.

    For some inputs the core writes past its memory, which ends the process or hangs it, so it runs in a child with a time limit.
    """

    def __init__(self) -> None:
        options = AlignOptions()
        self._head = Head.load(locate(options.head).path, options.encoder)
        self._lexicon = Lexicon()

    def __call__(self, samples: np.ndarray, text: str) -> list[Word]:
        words = text.split()
        tokens, owners = tokens_of(words)
        scores = emissions(self._head.log_posteriors(samples), self._head.prior)
        units = Units.spell(choose(scores, self._lexicon.look_up(tokens, "en")))
        first = (units.columns - 1) % STATES == 0
        targets, of = (units.columns[first] - 1) // STATES + 1, units.owners[first]
        phones = scores[:, 1:-1].reshape(len(scores), len(PHONES), STATES).max(axis=2)
        path = in_child(np.concatenate([scores[:, :1], phones], axis=1), targets)
        times: list[Time | None] = [None] * len(tokens)
        if path is not None:
            edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
            letters = np.array([(a, b) for a, b in itertools.pairwise(edges) if path[a]])
            for i in range(len(tokens)):
                times[i] = Time(letters[of == i, 0].min() / 100, letters[of == i, 1].max() / 100, 0.0, "ctc")
        return written(words, owners, times, len(samples) / RATE_HZ)


def in_child(log_probs: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
    """The core's path, or None where its process did not end well within 20 s."""
    code = (
        "import io, sys, numpy as np; from ctc_forced_aligner import forced_align\n"
        "file = io.BytesIO(sys.stdin.buffer.read()); given = np.load(file), np.load(file)\n"
        "path, _ = forced_align(given[0][None], given[1][None], blank=0)\n"
        "np.save(sys.stdout.buffer, np.asarray(path).reshape(-1)); sys.stdout.flush()\n"
    )
    given = io.BytesIO()
    np.save(given, np.ascontiguousarray(log_probs))
    np.save(given, targets)
    try:
        done = subprocess.run([sys.executable, "-c", code], input=given.getvalue(), capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return None
    return np.load(io.BytesIO(done.stdout), allow_pickle=False) if done.returncode == 0 else None


def row(name: str, give: Given, found: Sequence[Clip], heard: Sequence[np.ndarray], texts: Sequence[str]) -> list[str]:
    """One backend's figures; its time is the process's on one thread, after a first call that loads and compiles."""
    give(heard[0], texts[0])
    started = time.process_time()
    words = [give(samples, text) for samples, text in zip(heard, texts, strict=True)]
    took = time.process_time() - started
    errors: list[float] = []
    for clip, said in zip(found, words, strict=True):
        for word, line in pairs(said, clip.line["words"]):
            errors += [abs(word.start_s - line["s"]), abs(word.end_s - line["e"])]
    ms = 1000 * np.array(errors)
    every = [word for said in words for word in said]
    timed = sum(word.how != "interpolated" for word in every) / len(every)
    within = [f"{np.mean(ms <= limit):.1%}" for limit in (20, 50, 100)]
    seconds_ = sum(clip.seconds for clip in found)
    return [
        name, str(len(ms)), f"{np.median(ms):.1f}", f"{np.percentile(ms, 90):.1f}", *within, f"{timed:.0%}",
        f"{seconds_ / took:.0f}",
    ]  # fmt: skip


HEAD = [
    "aligner",
    "boundaries",
    "median ms",
    "90th percentile ms",
    "within 20 ms",
    "50 ms",
    "100 ms",
    "timed",
    "x real time",
]


def joined(
    found: Sequence[Clip], heard: Sequence[np.ndarray], minutes: float
) -> tuple[np.ndarray, str, list[list[float]]]:
    """Clips one after another with 0.2 to 1 s of faint noise between, its text, and each clip's (start, end, words) in it."""
    random = np.random.default_rng(0)
    parts, texts, times, at, i = [], [], [], 0, 0
    while at < minutes * 60 * RATE_HZ:
        gap = random.normal(0, 1e-4, int(random.uniform(0.2, 1.0) * RATE_HZ)).astype(np.float32)
        samples, text = heard[i % len(heard)], found[i % len(heard)].line["text"]
        times.append([(at + len(gap)) / RATE_HZ, (at + len(gap) + len(samples)) / RATE_HZ, len(text.split())])
        parts += [gap, samples]
        texts.append(text)
        at += len(gap) + len(samples)
        i += 1
    return np.concatenate(parts), " ".join(texts), times


def long_form(found: Sequence[Clip], heard: Sequence[np.ndarray], minutes: float) -> None:
    """Against each clip aligned alone, by which a drift would show, and against the reference."""
    give = ours("joint")
    samples, text, places = joined(found, heard, minutes)
    alone = [give(one, clip.line["text"]) for one, clip in zip(heard, found, strict=True)]
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    words = give(samples, text)
    took = time.process_time() - started
    drift, errors, at = [], [], 0
    for i, (start_s, _, count) in enumerate(places):
        own = [
            Word(w.text, w.start_s - start_s, w.end_s - start_s, w.score, w.how) for w in words[at : at + int(count)]
        ]
        at += int(count)
        clip = found[i % len(found)]
        for word, single in zip(own, alone[i % len(found)], strict=True):
            drift += [abs(word.start_s - single.start_s), abs(word.end_s - single.end_s)]
        for word, line in pairs(own, clip.line["words"]):
            errors += [abs(word.start_s - line["s"]), abs(word.end_s - line["e"])]
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    length_s = len(samples) / RATE_HZ
    print(
        f"\n{length_s / 60:.1f} minutes in one piece, {len(words)} words: {length_s / took:.0f} times real time", end=""
    )
    print(f", {memory:.0f} MB more memory")
    for name, values in (("the same clips aligned alone", drift), ("the reference", errors)):
        ms = 1000 * np.array(values)
        print(
            f"against {name}: median {np.median(ms):.1f} ms, 90th percentile {np.percentile(ms, 90):.1f} ms, ", end=""
        )
        print(f"largest {ms.max():.0f} ms, over 200 ms: {np.mean(ms > 200):.2%}")
    halves = [1000 * np.median(half) for half in np.array_split(errors, 2)]
    print(f"median of the first half {halves[0]:.1f} ms, of the second {halves[1]:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, help="only the first N clips")
    parser.add_argument(
        "--long", type=float, default=0, metavar="MINUTES", help="join clips to so many minutes, and align that"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = clips("ljspeech.jsonl", args.clips)
    heard = [resample(clip.samples, clip.rate_hz, RATE_HZ) for clip in found]
    print(machine("torch", "pocketsphinx", "openai-whisper", "ctc-forced-aligner", "numba"))
    if args.long:
        long_form(found, heard, args.long)
        return
    recognised = [" ".join(word.text for word in whisper_timestamps(samples, "")) for samples in heard]
    given = [clip.line["text"] for clip in found]
    runs_ = {
        "antiphon, joint (default)": ours("joint"),
        "antiphon, phones": ours("phones"),
        "antiphon, gmm": ours("gmm"),
        "antiphon, chars": ours("chars"),
        "ctc-forced-aligner's core on the phones' emissions": CppCore(),
        "openai-whisper, word_timestamps (with recognition)": whisper_timestamps,
    }
    print(
        f"{len(found)} clips of LJSpeech, {sum(clip.seconds for clip in found):.0f} s; reference: Montreal Forced Aligner\n"
    )
    for what, texts in (("recognised by Whisper tiny", recognised), ("as given", given)):
        rows = []
        for name, give in runs_.items():
            if give is whisper_timestamps and texts is given:
                continue  # it writes its own text, so there is nothing else to show
            rows.append(row(name, give, found, heard, texts))
            print(" ", *rows[-1], file=sys.stderr, flush=True)
        print(f"Text {what}:\n\n{table(HEAD, rows)}\n", flush=True)


if __name__ == "__main__":
    main()
