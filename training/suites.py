"""Test suites of paired likelihoods, read from the formats they were published in.

Each suite becomes pairs of a good and a bad side, with the categories its results are told apart by. Nothing is decoded here.
Where each format is described, and what of it could not be checked, is in docs/evaluation.md.
"""

import csv
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import UserError

SALMON_PARTS = (
    "bg_alignment",
    "bg_all_consistency",
    "bg_domain_consistency",
    "gender_consistency",
    "rir_consistency",
    "sentiment_alignment",
    "sentiment_consistency",
    "speaker_consistency",
)
_SOUND = frozenset((".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"))
_BANDS = ((1, "oov"), (5, "1-4"), (20, "5-19"), (100, "20-99"), (float("inf"), "100-"))
"""Upper bounds of sWUGGY's frequency bands, exclusive, as the challenge's own program cuts them (it prints 1-5, 6-20, 21-100)."""


class SuiteError(UserError):
    """A suite's files are not in its published format. Names the file."""


@dataclass(frozen=True)
class Side:
    """One side of a pair.

    Attributes:
        text: its words; empty where the suite does not give them.
        audio: its sound; None where a TTS has to make it from `text`.
        prompt: what comes before it and is the same on both sides; None where there is no such thing.
    """

    text: str = ""
    audio: Path | None = None
    prompt: "Side | None" = None


@dataclass(frozen=True)
class Pair:
    """Two sides, of which a good model finds `good` the likelier.

    Attributes:
        categories: dimension -> value, such as {"phenomenon": "anaphor_agreement"}.
        item: pairs of the same item (one word in several voices) are averaged before they count; its own id otherwise.
    """

    id: str
    good: Side
    bad: Side
    categories: dict[str, str] = field(default_factory=dict)
    item: str = ""


def read(suite: str, paths: Sequence[Path], seed: int = 0) -> list[Pair]:
    """The pairs of a suite in a stable order. `seed`: of what a suite draws (topic-storycloze from a table of texts).

    Raises SuiteError for files that are not in the suite's format, or hold no pair.
    """
    reader = SUITES[suite]
    pairs = [pair for path in paths for pair in reader(_there(path), seed)]
    if not pairs:
        raise SuiteError(f"{', '.join(map(str, paths))}: no pair of the suite {suite} in here")
    return pairs


def swuggy(path: Path, seed: int = 0) -> Iterator[Pair]:
    """sWUGGY, ZeroSpeech 2021 `lexical/`: gold.csv (filename, id, voice, frequency, word, phones, length, correct) beside wavs."""
    gold = _gold(path, "lexical", ("filename", "id", "voice", "frequency", "word", "correct"))
    for key, good, bad in _by_gold(gold, ("id", "voice")):
        frequency = good["frequency"].strip()
        count = float(frequency) if frequency else None
        band = "unknown" if count is None else next(name for bound, name in _BANDS if count < bound)
        categories = {"vocabulary": {"unknown": "unknown", "oov": "oov"}.get(band, "in"), "frequency": band}
        if good.get("length"):
            categories["length"] = good["length"]
        yield Pair(
            f"{key[0]}/{key[1]}",
            Side(good["word"], _wav(gold, good)),
            Side(bad["word"], _wav(gold, bad)),
            categories,
            f"{gold}/{key[0]}",
        )


def sblimp(path: Path, seed: int = 0) -> Iterator[Pair]:
    """sBLIMP, ZeroSpeech 2021 `syntactic/`: gold.csv (filename, id, voice, type, subtype, transcription, correct) beside wavs."""
    gold = _gold(path, "syntactic", ("filename", "id", "voice", "type", "subtype", "transcription", "correct"))
    for key, good, bad in _by_gold(gold, ("type", "subtype", "id", "voice")):
        yield Pair(
            "/".join(key),
            Side(good["transcription"], _wav(gold, good)),
            Side(bad["transcription"], _wav(gold, bad)),
            {"type": key[0], "subtype": key[1]},
            f"{gold}/{'/'.join(key[:3])}",
        )


def storycloze(path: Path, seed: int = 0, *, topic: bool = False) -> Iterator[Pair]:
    """StoryCloze: a folder of wavs, or the table of the texts.

    Folder: `NAME_correct.wav` and `NAME_incorrect.wav`, whole stories; or, where there is `NAME_mutual.wav` too, the four
    sentences that both share and the endings alone, each with a `.txt` of its words beside it. Table: csv or tsv with
    InputSentence1..4, RandomFifthSentenceQuiz1, RandomFifthSentenceQuiz2 and AnswerRightEnding (1 or 2).

    `topic`: the wrong ending of a table is the right one of another story, drawn by `seed`, as in TWIST's topic StoryCloze.
    """
    if path.is_dir():
        yield from _story_folder(path)
        return
    stories = list(_story_table(path))
    draw = random.Random(seed)
    for i, (name, story, right, wrong) in enumerate(stories):
        if topic:
            if len(stories) < 2:
                raise SuiteError(f"{path}: the wrong endings are those of other stories, and there is one story only")
            wrong = stories[(i + draw.randrange(1, len(stories))) % len(stories)][2]
        prompt = Side(story)
        yield Pair(name, Side(right, prompt=prompt), Side(wrong, prompt=prompt))


def topic_storycloze(path: Path, seed: int = 0) -> Iterator[Pair]:
    """Topic StoryCloze: see `storycloze`."""
    return storycloze(path, seed, topic=True)


def salmon(path: Path, seed: int = 0) -> Iterator[Pair]:
    """SALMon: the folders of its 8 parts, or one of them, two wavs `sample_<i>_*.wav` a pair; by name, the first is good."""
    parts = [path] if path.name in SALMON_PARTS else [path / part for part in SALMON_PARTS if (path / part).is_dir()]
    if not parts:
        raise SuiteError(f"{path}: none of SALMon's parts in here ({', '.join(SALMON_PARTS)})")
    for part in parts:
        samples: dict[int, list[Path]] = defaultdict(list)
        for wav in sorted(part.glob("*.wav")):
            fields = wav.stem.split("_")
            if len(fields) < 3 or not fields[1].isdigit():
                raise SuiteError(
                    f"{wav}: SALMon's files are called sample_<i>_correct.wav and sample_<i>_incorrect.wav"
                )
            samples[int(fields[1])].append(wav)
        for i, wavs in sorted(samples.items()):
            if len(wavs) != 2:
                raise SuiteError(f"{part}: sample {i} has {len(wavs)} wavs, and a pair has 2")
            yield Pair(f"{part.name}/{i}", Side(audio=wavs[0]), Side(audio=wavs[1]), {"part": part.name})


def pairs(path: Path, seed: int = 0) -> Iterator[Pair]:
    """JSON lines with `good` and `bad`, each a sound file (relative to the JSONL) or a sentence; BLiMP's own files are read too.

    Optional: `id`, `prompt` (a file or sentence that both begin with), and `category`, a name or an object of names.
    """
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            blimp = "sentence_good" in fields
            good, bad = (str(fields[f"sentence_{side}" if blimp else side]) for side in ("good", "bad"))
        except (ValueError, KeyError, TypeError) as error:
            raise SuiteError(f"{path}:{number}: give good and bad: {type(error).__name__}: {error}") from None
        if blimp:
            categories = {
                name: str(fields[key])
                for name, key in (("field", "field"), ("phenomenon", "linguistics_term"), ("paradigm", "UID"))
                if key in fields
            }
            name = f"{fields.get('UID', path.stem)}/{fields.get('pairID', number)}"
        else:
            given = fields.get("category") or {}
            categories = (
                {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {"category": str(given)}
            )
            name = str(fields.get("id") or f"{path.stem}/{number}")
        prompt = _side(path, str(fields["prompt"])) if fields.get("prompt") else None
        yield Pair(name, _side(path, good, prompt), _side(path, bad, prompt), categories)


SUITES: dict[str, Callable[[Path, int], Iterator[Pair]]] = {
    "swuggy": swuggy,
    "sblimp": sblimp,
    "storycloze": storycloze,
    "topic-storycloze": topic_storycloze,
    "salmon": salmon,
    "pairs": pairs,
}


def _there(path: Path) -> Path:
    if not path.exists():
        raise SuiteError(f"{path}: nothing there")
    return path


def _side(path: Path, what: str, prompt: Side | None = None) -> Side:
    """A sound file's side where `what` ends in a sound file's suffix, else a sentence's."""
    if Path(what).suffix.lower() in _SOUND:
        return Side(audio=_there(path.parent / what), prompt=prompt)
    return Side(" ".join(what.split()), prompt=prompt)


def _gold(path: Path, task: str, columns: Sequence[str]) -> Path:
    """The gold.csv in `path`: the file itself, its folder, or `task`/dev of the data set's root."""
    tried = [path] if path.is_file() else [path / "gold.csv", path / "dev/gold.csv", path / task / "dev/gold.csv"]
    for gold in tried:
        if gold.is_file():
            with gold.open(encoding="utf-8", newline="") as stream:
                missing = sorted(set(columns) - set(csv.DictReader(stream).fieldnames or ()))
            if missing:
                raise SuiteError(f"{gold}: no column {', '.join(missing)}")
            return gold
    raise SuiteError(f"{path}: no gold.csv here, nor in {task}/dev")


def _by_gold(gold: Path, by: Sequence[str]) -> Iterator[tuple[tuple[str, ...], dict[str, str], dict[str, str]]]:
    """(key, row of the correct one, row of the other) in the order of gold.csv."""
    found: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    with gold.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            key = tuple(row[name] for name in by)
            sides = found.setdefault(key, {})
            if row["correct"] not in ("0", "1") or row["correct"] in sides:
                raise SuiteError(
                    f"{gold}: {'/'.join(key)}: correct is {row['correct']!r} (again); one row has 1, one has 0"
                )
            sides[row["correct"]] = row
    for key, sides in found.items():
        if len(sides) != 2:
            raise SuiteError(f"{gold}: {'/'.join(key)} has {len(sides)} row, and a pair has 2")
        yield key, sides["1"], sides["0"]


def _wav(gold: Path, row: dict[str, str]) -> Path:
    name = row["filename"]
    return _there(gold.parent / (name if name.endswith(".wav") else f"{name}.wav"))


def _story_folder(folder: Path) -> Iterator[Pair]:
    rights = sorted(folder.rglob("*_correct.wav"))
    if not rights:
        raise SuiteError(f"{folder}: no NAME_correct.wav with its NAME_incorrect.wav in here")
    for right in rights:
        base = right.name.removesuffix("_correct.wav")
        wrong = _there(right.with_name(f"{base}_incorrect.wav"))
        mutual = right.with_name(f"{base}_mutual.wav")
        prompt = Side(_words(mutual), mutual) if mutual.exists() else None
        name = str(right.relative_to(folder)).removesuffix("_correct.wav")
        yield Pair(name, Side(_words(right), right, prompt), Side(_words(wrong), wrong, prompt))


def _words(wav: Path) -> str:
    text = wav.with_suffix(".txt")
    return " ".join(text.read_text("utf-8").split()) if text.exists() else ""


def _story_table(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """(name, four sentences, right ending, wrong ending). Columns are named as in the release or in its copy for `datasets`."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        head = stream.readline()
        stream.seek(0)
        for number, row in enumerate(csv.DictReader(stream, delimiter="\t" if "\t" in head else ","), 1):
            fields: dict[str, Any] = {name.replace("_", "").lower(): value for name, value in row.items() if name}
            try:
                story = " ".join(fields[f"inputsentence{i}"].strip() for i in (1, 2, 3, 4))
                endings = [
                    (fields.get(f"randomfifthsentencequiz{i}") or fields[f"sentencequiz{i}"]).strip() for i in (1, 2)
                ]
                right = ("1", "2").index(fields["answerrightending"].strip())
                yield (
                    fields.get("inputstoryid") or fields.get("storyid") or str(number),
                    story,
                    endings[right],
                    endings[1 - right],
                )
            except (KeyError, ValueError, AttributeError, IndexError) as error:
                raise SuiteError(f"{path}: story {number}: {type(error).__name__}: {error}") from None
