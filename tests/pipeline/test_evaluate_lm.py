"""`evaluate lm` on real sound: a model that has learnt the good sides by heart, asked by every suite in its published format."""
# ruff: noqa: F401, F811  (fixtures of another folder)

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from pipeline.cli import main
from pipeline.clips import Clip, Row, hear
from pipeline.config import Config
from pipeline.evaluate_lm import LmOptions, evaluate_lm, table
from schemas.errors import UserError
from tests.conftest import Clip as Speech
from tests.training.conftest import sentences, trunk
from training.checkpoint import Checkpoint, build, load, save
from training.layouts import CodecLayoutOptions, make
from training.model import load_trunk
from training.options import TrainOptions
from training.packing import Piece, collate
from training.scoring import lay, lay_text, with_words
from training.suites import SALMON_PARTS
from training.text import load_text
from transforms.codec.stage import CodecOptions, card, make_codec
from transforms.dialogue.speak import SpeakOptions

STORIES = [
    ("It rained all day.", "We got wet."),
    ("He bought a cake.", "They ate it."),
    ("She ran a race.", "She won it."),
]
ENDINGS = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2")
SPOKEN = ["Dogs eat meat.", "The cat sleeps."]


@dataclass
class Asked:
    """The checkpoint's folder, three wavs that it knows and three that it does not, and the texts that it knows."""

    model: Path
    good: list[Path]
    bad: list[Path]
    cache: Path


@pytest.fixture(scope="module")
def asked(speech: list[Speech], trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("asked")
    wavs: dict[str, list[Path]] = {"good": [], "bad": []}
    for i, clip in enumerate(speech):
        half = clip.rate_hz + clip.rate_hz // 2
        for side, samples in (("good", clip.samples[:half]), ("bad", clip.samples[half : 2 * half])):
            if i < 3:
                wavs[side].append(folder / f"{side}{i}.wav")
                soundfile.write(wavs[side][-1], samples, clip.rate_hz)
    options = TrainOptions(layout=CodecLayoutOptions(), trunk_layers=2)
    codec = CodecOptions()
    cards = {"codec": card(codec, make_codec(codec))}
    text = load_text(trunk)
    layout = make(options.layout, text.vocabulary, cards)
    run = Checkpoint(build(load_trunk(trunk, 2), layout, options), text, layout, cards, options)

    clips = [*(Clip(audio=wav) for wav in wavs["good"]), *map(Clip, SPOKEN), *(Clip(story) for story, _ in STORIES)]
    clips += [Clip(ending) for _, ending in STORIES]
    heard = hear(
        run,
        clips,
        folder / "learnt",
        words="none",
        language="en",
        voice=SpeakOptions(),
        config=Config(),
        say=lambda line: None,
    )
    assert not heard.lost
    rows: list[Row] = [heard.rows[clip] for clip in clips[:5]]
    for (story, ending), wav in zip(STORIES, wavs["good"], strict=True):
        for told in (heard.rows[Clip(story)], heard.rows[Clip(audio=wav)]):
            rows.append(with_words(told, ending.split(), told["duration_s"]))
        for end in (heard.rows[Clip(ending)], heard.rows[Clip(audio=wav)]):
            rows.append(with_words(end, story.split(), 0.0))
    laid = [lay(run, row) for row in rows]
    laid += [lay_text(run, f"{story} {ending}".split(), "text") for story, ending in STORIES]
    batch = collate([[Piece(s, 0, len(s.inputs))] for s in laid], max(len(s.inputs) for s in laid))
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-2)
    for _ in range(60):
        run.model.loss(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    save(folder / "model", run, optimizer)
    yield Asked(folder / "model", wavs["good"], wavs["bad"], folder / "cache")
    torch.set_num_threads(before)


def ask(asked: Asked, suite: str, path: Path, **options: Any) -> float:
    report, verdicts = evaluate_lm(asked.model, suite, [path], LmOptions(**options), cache=asked.cache)
    assert report.all.pairs == len(verdicts)
    assert not report.unscored
    return report.all.accuracy


def gold(folder: Path, asked: Asked, columns: dict[str, str], word: str) -> Path:
    folder.mkdir(parents=True)
    with (folder / "gold.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["filename", "id", "voice", "correct", word, *columns])
        writer.writeheader()
        for i, pair in enumerate(zip(asked.good, asked.bad, strict=True)):
            for correct, wav in zip("10", pair, strict=True):
                name = f"{i}{correct}"
                shutil.copy(wav, folder / f"{name}.wav")
                fixed = {"filename": name, "id": str(i), "voice": "A", "correct": correct, word: "w"}
                writer.writerow(fixed | columns)
    return folder


def test_swuggy_and_sblimp(asked: Asked, tmp_path: Path) -> None:
    lexical = gold(tmp_path / "lexical/dev", asked, {"frequency": "3", "phones": "-", "length": "4"}, "word")
    syntactic = gold(tmp_path / "syntactic/dev", asked, {"type": "t", "subtype": "s"}, "transcription")
    assert lexical.parents[1] == syntactic.parents[1] == tmp_path
    assert ask(asked, "swuggy", tmp_path) == 1.0
    report, _ = evaluate_lm(asked.model, "sblimp", [tmp_path], cache=asked.cache)
    assert report.by["type"]["t"].accuracy == report.by["subtype"]["s"].accuracy == 1.0
    assert (report.words, report.modality, report.score) == ("none", "speech", "mean")
    assert report.streams == tuple(f"codec_{k}" for k in range(8))


def test_salmon(asked: Asked, tmp_path: Path) -> None:
    for part in SALMON_PARTS:
        (tmp_path / part).mkdir()
        for i, (good, bad) in enumerate(zip(asked.good[:2], asked.bad[:2], strict=True)):
            shutil.copy(good, tmp_path / part / f"sample_{i}_correct.wav")
            shutil.copy(bad, tmp_path / part / f"sample_{i}_incorrect.wav")
    report, _ = evaluate_lm(asked.model, "salmon", [tmp_path], cache=asked.cache)
    assert {part: found.accuracy for part, found in report.by["part"].items()} == dict.fromkeys(SALMON_PARTS, 1.0)
    assert (report.all.pairs, report.all.ties) == (16, 0)
    printed = table(report)
    assert "part rir_consistency                 1.0000" in printed
    streams = " + ".join(f"codec_{k}" for k in range(8))
    assert f"mean log-likelihood of {streams}, modality speech, words none" in printed


def stories(folder: Path, asked: Asked) -> Path:
    """As slamkit's cross-modal StoryCloze: the shared sentences and the endings, each as sound and as text."""
    folder.mkdir()
    for i, (story, ending) in enumerate(STORIES):
        others = {"mutual": (asked.good[i], story), "correct": (asked.good[i], ending)}
        others["incorrect"] = (asked.bad[i], STORIES[i - 1][1])
        for part, (wav, words) in others.items():
            shutil.copy(wav, folder / f"{i}_{part}.wav")
            (folder / f"{i}_{part}.txt").write_text(words)
    return folder


@pytest.mark.parametrize("modality", ["text", "speech-text", "text-speech"])
@pytest.mark.parametrize("score", ["mean", "sum"])
def test_storycloze_of_parts(asked: Asked, tmp_path: Path, modality: str, score: str) -> None:
    folder = stories(tmp_path / "parts", asked)
    assert ask(asked, "storycloze", folder, modality=modality, score=score) == 1.0


def test_storycloze_whole(asked: Asked, tmp_path: Path) -> None:
    folder = stories(tmp_path / "parts", asked)
    with pytest.raises(UserError, match="say which modality"):
        ask(asked, "storycloze", folder)
    with pytest.raises(UserError, match="give files that hold both"):
        ask(asked, "storycloze", folder, modality="speech")
    for mutual in folder.glob("*_mutual.*"):
        mutual.unlink()
    assert ask(asked, "storycloze", folder) == ask(asked, "topic-storycloze", folder, streams=["first"]) == 1.0
    with pytest.raises(UserError, match="has no prompt"):
        ask(asked, "storycloze", folder, modality="text-speech")


def test_storycloze_of_a_table(asked: Asked, tmp_path: Path) -> None:
    path = tmp_path / "stories.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["InputStoryid", *(f"InputSentence{i}" for i in (1, 2, 3, 4)), *ENDINGS, "AnswerRightEnding"])
        for i, (story, ending) in enumerate(STORIES):
            endings = [ending, "It never ended."] if i % 2 else ["It never ended.", ending]
            writer.writerow([f"s{i}", story, "", "", "", *endings, 1 if i % 2 else 2])
    assert ask(asked, "storycloze", path) == 1.0  # read
    assert ask(asked, "topic-storycloze", path) == 1.0
    assert ask(asked, "storycloze", path, modality="text-speech") == 1.0  # read, then spoken by the TTS
    assert ask(asked, "storycloze", path, modality="speech-text", whole=True) == 1.0


def test_pairs_reversed_identical_and_spoken(asked: Asked, tmp_path: Path) -> None:
    pairs = list(zip(map(str, asked.good), map(str, asked.bad), strict=True))

    def written(name: str, lines: list[dict[str, str]]) -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return path

    assert ask(asked, "pairs", written("right", [{"good": g, "bad": b} for g, b in pairs])) == 1.0
    assert ask(asked, "pairs", written("wrong", [{"good": b, "bad": g} for g, b in pairs])) == 0.0
    copies = [str(shutil.copy(good, tmp_path / Path(good).name)) for good, _ in pairs]
    same = [{"good": g, "bad": copy} for (g, _), copy in zip(pairs, copies, strict=True)]
    assert ask(asked, "pairs", written("same", same)) == 0.5
    said = [{"good": text, "bad": f"{text[:-5]} zoo."} for text in SPOKEN]
    assert ask(asked, "pairs", written("said", said)) == 1.0


def test_the_command_and_what_it_writes(asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "blimp.jsonl", tmp_path / "scores/pairs.jsonl"
    lines = [
        {"sentence_good": t, "sentence_bad": f"{t[:-5]} zoo.", "UID": "u", "pairID": str(i)}
        for i, t in enumerate(SPOKEN)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = ["evaluate", "lm", str(asked.model), "--suite", "pairs", "--data", str(path), "--cache", str(asked.cache)]
    assert main([*command, "--out", str(out), "--set", "score=sum"]) == 0
    printed = capsys.readouterr()
    assert "scored: sum log-likelihood of codec_0" in printed.out
    assert "all                                  1.0000" in printed.out
    scores = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["id"] for line in scores] == ["u/0", "u/1"]
    for line in scores:
        for side in ("good", "bad"):
            assert line[f"{side}_score"] == pytest.approx(sum(line[side][f"codec_{k}"][0] for k in range(8)))
            assert line[side]["text"] == [0.0, 0]
    first = out.read_bytes()
    assert main([*command, "--out", str(out), "--set", "score=sum", "--json"]) == 0
    printed = capsys.readouterr()
    assert "blocks are committed already" in printed.err
    assert json.loads(printed.out)["all"]["accuracy"] == 1.0
    assert out.read_bytes() == first

    assert main([*command, "--set", "scores=sum", "--set", "limit=0"]) == 2
    told = capsys.readouterr().err
    assert "evaluate lm: scores: there is no such field; did you mean score?" in told
    assert "limit: Input should be greater than or equal to 1" in told
    assert main([*command[:4], "wuggy", *command[5:]]) == 2
    assert "no suite 'wuggy'; there are swuggy, sblimp" in capsys.readouterr().err


def test_words_in_the_text_row(asked: Asked, tmp_path: Path) -> None:
    """Given words are aligned and stand in the text row, where they can be scored too."""
    path = tmp_path / "said.jsonl"
    path.write_text(json.dumps({"good": SPOKEN[0], "bad": "Dogs eat zoo."}))
    report, (verdict,) = evaluate_lm(
        asked.model, "pairs", [path], LmOptions(words="given", streams=("joint",)), cache=asked.cache
    )
    assert report.words == "given"
    n_good, n_bad = (sum(stream.labels for stream in side.values()) for side in (verdict.good, verdict.bad))
    assert report.shorter.accuracy == (0.5 if n_good == n_bad else float(n_good < n_bad))
    assert verdict.good["text"].labels >= 3
    silent = tmp_path / "silent.jsonl"
    silent.write_text(json.dumps({"good": str(asked.good[0]), "bad": str(asked.bad[0])}))
    with pytest.raises(UserError, match=r"2 clips come without, such as .*good0\.wav"):
        ask(asked, "pairs", silent, words="given")
    with pytest.raises(UserError, match="comes without its words, which modality text needs"):
        ask(asked, "pairs", silent, modality="text")


def test_what_cannot_be_heard_is_counted(asked: Asked, tmp_path: Path) -> None:
    broken, long = tmp_path / "broken.wav", tmp_path / "long.wav"
    broken.write_bytes(b"RIFF no sound")
    soundfile.write(long, np.random.default_rng(0).uniform(-0.1, 0.1, 16000 * 33), 16000)
    good, bad = asked.good[0], asked.bad[0]
    path = tmp_path / "pairs.jsonl"
    lines = [{"good": str(good), "bad": str(b)} for b in (bad, broken, long)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    report, (verdict,) = evaluate_lm(asked.model, "pairs", [path], cache=asked.cache)
    assert verdict.won == 1.0
    assert sum(report.unscored.values()) == 2
    assert "longer than 30 s" in report.unscored
    assert "no score: 1 pairs: longer than 30 s" in table(report)
    path.write_text(json.dumps(lines[1]))
    with pytest.raises(UserError, match="none of 1 pairs could be scored"):
        evaluate_lm(asked.model, "pairs", [path], cache=asked.cache)


def test_another_codec_is_refused(asked: Asked, trunk: Path, tmp_path: Path) -> None:
    run = load(asked.model)
    run.cards = {"codec": replace(run.cards["codec"], revision="123")}
    save(tmp_path, run, torch.optim.AdamW(run.model.parameters()))
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"good": "a b.", "bad": "b a."}))
    with pytest.raises(UserError, match="no codec here has revision 123"):
        evaluate_lm(tmp_path, "pairs", [path], cache=tmp_path / "cache")
