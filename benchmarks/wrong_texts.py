"""How many wrong transcripts of real speech the filter finds, and under which reason; and how many right ones it loses.

python -m benchmarks.wrong_texts [--every N] [--check-language]

The right text is what Whisper tiny recognises in 60 clips of LibriSpeech test-other and 20 of LJSpeech, segmented by the VAD.
"""

import argparse
import copy
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.common import clips, machine, table
from schemas import Block, Piece, Utterance
from transforms.align.stage import Align, AlignOptions
from transforms.filter import Filter, FilterOptions
from transforms.resample import resample
from transforms.segment import Segment, SegmentOptions
from transforms.stage import Stage
from transforms.transcribe.language import LanguageJudge
from transforms.transcribe.stage import Transcribe, TranscribeOptions

RATE_HZ = 16000

SENTENCES = {
    "de": (
        "Am nächsten Morgen gingen die Kinder mit ihrem Großvater zum Fluss und suchten nach flachen Steinen",
        "Die Regierung hat gestern beschlossen, die Steuern im kommenden Jahr nicht zu erhöhen",
    ),
    "es": (
        "Cuando llegamos al pueblo ya era de noche y todas las ventanas estaban cerradas",
        "El médico le dijo que debía descansar y beber mucha agua durante la semana",
    ),
    "ru": (
        "На следующее утро мы вышли из дома очень рано и пошли по дороге к станции",
        "Врач сказал, что ему нужно больше отдыхать и меньше волноваться",
    ),
}
"""Plain sentences in languages in which nothing of the audio was said."""

Fault = Callable[[Sequence[str], int], tuple[str, str]]
"""(right texts, index) -> a wrong text for that clip, and its language."""


def looped(words: int, times: int) -> Fault:
    return lambda texts, i: (" ".join([texts[i], *texts[i].split()[-words:] * times]), "en")


def another(texts: Sequence[str], i: int) -> tuple[str, str]:
    return texts[(i + 7) % len(texts)], "en"


def replaced(texts: Sequence[str], i: int) -> tuple[str, str]:
    """Every second word, at random, is one from some other clip."""
    random = np.random.default_rng(i)
    words = texts[i].split()
    pool = " ".join(texts).split()
    for at in random.permutation(len(words))[: len(words) // 2]:
        words[at] = pool[random.integers(len(pool))]
    return " ".join(words), "en"


def first_half(texts: Sequence[str], i: int) -> tuple[str, str]:
    words = texts[i].split()
    return " ".join(words[: (len(words) + 1) // 2]), "en"


def second_half(texts: Sequence[str], i: int) -> tuple[str, str]:
    words = texts[i].split()
    return " ".join(words[len(words) // 2 :]), "en"


def two_thirds(texts: Sequence[str], i: int) -> tuple[str, str]:
    words = texts[i].split()
    return " ".join(words[: len(words) - len(words) // 3]), "en"


def foreign(language: str, said_to_be: str) -> Fault:
    return lambda _, i: (SENTENCES[language][i % 2], said_to_be)


FAULTS: dict[str, Fault] = {
    "as recognised": lambda texts, i: (texts[i], "en"),
    "last 4 words 5 times more": looped(4, 5),
    "last 4 words 2 times more": looped(4, 2),
    "last word 8 times more": looped(1, 8),
    "text twice": lambda texts, i: (f"{texts[i]} {texts[i]}", "en"),
    "another clip's text": another,
    "half of the words replaced": replaced,
    "second half missing": first_half,
    "first half missing": second_half,
    "last third missing": two_thirds,
    "a German text, as English": foreign("de", "en"),
    **{f"a text in {language}": foreign(language, language) for language in SENTENCES},
}


def recognised(every: int) -> Block:
    """Real clips after segment and transcribe, one Block."""
    found = [*clips("librispeech-test-other.jsonl", 60), *clips("ljspeech.jsonl", 20)][::every]
    block = Block(0, RATE_HZ)
    for clip in found:
        samples = resample(clip.samples, clip.rate_hz, RATE_HZ)
        block.pieces.append(Piece(str(clip.line["id"]), "", "", samples={-1: samples}))
    for stage in (Segment(SegmentOptions()), Transcribe(TranscribeOptions())):
        block = ready(stage)(block)
    block.utterances = [u for u in block.utterances if u.text]
    return block


def ready(stage: Stage) -> Stage:
    stage.setup()
    return stage


def judged(
    utterances: Sequence[Utterance], fault: Fault, align: Stage, heard: Sequence[dict[str, float]] | None
) -> Counter[str]:
    """Reasons of the utterances with their texts changed by `fault`; "kept" for those that stay.

    Args:
        heard: for each the probability of every language, as `transcribe.check_language` finds it.
    """
    texts = [u.text for u in utterances]
    block = Block(0, RATE_HZ)
    for i, u in enumerate(utterances):
        changed = copy.copy(u)
        changed.text, changed.language = fault(texts, i)
        changed.columns = dict(u.columns)
        if heard is not None:
            changed.columns["asr_given_language_prob"] = heard[i][changed.language]
        block.utterances.append(changed)
    block = Filter(FilterOptions(), "joint")(align(block))
    return Counter({"kept": len(block.utterances)}) + Counter(r.reason.value for r in block.rejections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only every N-th clip")
    parser.add_argument("--check-language", action="store_true", help="with transcribe.check_language of whisper-tiny")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    block = recognised(arguments.every)
    heard = None
    if arguments.check_language:
        judge = LanguageJudge("whisper-tiny")
        heard = [judge.heard([resample(u.samples, u.rate_hz, RATE_HZ)])[0] for u in block.utterances]
    align = ready(Align(AlignOptions()))
    rows = []
    for name, fault in FAULTS.items():
        found = judged(block.utterances, fault, align, heard)
        count = sum(found.values())
        reasons = ", ".join(f"{reason} {n}" for reason, n in found.most_common() if reason != "kept")
        rows.append([name, count, count - found["kept"], reasons])
    print(machine("torch", "openai-whisper"))
    print(f"{sum(u.duration_s for u in block.utterances):.0f} s of speech; align.backend joint; default thresholds\n")
    print(table(["text", "utterances", "rejected", "reasons"], rows))


if __name__ == "__main__":
    main()
