"""Suites: a small replica of each published format is read as the pairs it means; what is not in the format is refused."""

import csv
import json
from pathlib import Path

import pytest

from training.suites import SALMON_PARTS, SUITES, SuiteError, read


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"RIFF")


def table(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def lexical(folder: Path) -> Path:
    """Two words with a non-word each, in two voices, as in ZeroSpeech 2021; wrong ones first, to be found by `correct`."""
    rows = []
    for item, (word, other, frequency) in enumerate([("brick", "blick", "5"), ("squalled", "squilled", "0")]):
        for voice in "AB":
            for correct, written in (("0", other), ("1", word)):
                name = f"x{item}{voice}{correct}"
                rows.append(
                    {
                        "filename": name,
                        "id": str(item),
                        "voice": voice,
                        "frequency": frequency if correct == "1" else "",
                        "word": written,
                        "phones": "-",
                        "length": str(len(written)),
                        "correct": correct,
                    }
                )
                touch(folder / "lexical/dev" / f"{name}.wav")
    table(folder / "lexical/dev/gold.csv", rows)
    return folder


@pytest.mark.parametrize("inside", ["", "lexical", "lexical/dev", "lexical/dev/gold.csv"])
def test_swuggy(tmp_path: Path, inside: str) -> None:
    pairs = read("swuggy", [lexical(tmp_path) / inside])
    assert [pair.id for pair in pairs] == ["0/A", "0/B", "1/A", "1/B"]
    first = pairs[0]
    assert (first.good.text, first.bad.text) == ("brick", "blick")
    assert first.good.audio == tmp_path / "lexical/dev/x0A1.wav"
    assert first.categories == {"vocabulary": "in", "frequency": "5-19", "length": "5"}
    assert pairs[2].categories["vocabulary"] == pairs[2].categories["frequency"] == "oov"
    assert pairs[0].item == pairs[1].item != pairs[2].item


def test_sblimp(tmp_path: Path) -> None:
    folder = tmp_path / "syntactic" / "dev"
    rows = []
    for correct, sentence in (("1", "dogs eat meat"), ("0", "dogs eats meat")):
        name = f"s{correct}"
        touch(folder / f"{name}.wav")
        kinds = {"type": "agreement", "subtype": "number", "transcription": sentence, "correct": correct}
        rows.append({"filename": name, "id": "7", "voice": "A"} | kinds)
    table(folder / "gold.csv", rows)
    (pair,) = read("sblimp", [tmp_path])
    assert pair.good.text == "dogs eat meat"
    assert pair.bad.audio == folder / "s0.wav"
    assert pair.categories == {"type": "agreement", "subtype": "number"}

    table(folder / "gold.csv", rows[:1])
    with pytest.raises(SuiteError, match="agreement/number/7/A has 1 row"):
        read("sblimp", [tmp_path])
    (folder / "s1.wav").unlink()
    table(folder / "gold.csv", rows)
    with pytest.raises(SuiteError, match=r"s1\.wav: nothing there"):
        read("sblimp", [tmp_path])
    table(folder / "gold.csv", [{"filename": "s1", "id": "7"}])
    with pytest.raises(SuiteError, match="no column correct, subtype, transcription, type, voice"):
        read("sblimp", [tmp_path])


@pytest.mark.parametrize("nested", ["", "3"])
def test_storycloze_of_whole_stories(tmp_path: Path, nested: str) -> None:
    folder = tmp_path / nested
    touch(*(folder / f"{i}_{side}.wav" for i in (1, 2) for side in ("correct", "incorrect")))
    pairs = read("storycloze", [tmp_path])
    assert [pair.good.audio for pair in pairs] == [folder / "1_correct.wav", folder / "2_correct.wav"]
    assert pairs[0].good.prompt is None
    (folder / "2_incorrect.wav").unlink()
    with pytest.raises(SuiteError, match=r"2_incorrect\.wav: nothing there"):
        read("topic-storycloze", [tmp_path])


def test_storycloze_of_stories_and_their_endings(tmp_path: Path) -> None:
    for part, words in (("mutual", "It rained. \n"), ("correct", "We got wet."), ("incorrect", "We flew.")):
        touch(tmp_path / f"1_{part}.wav")
        (tmp_path / f"1_{part}.txt").write_text(words)
    (pair,) = read("storycloze", [tmp_path])
    assert pair.good.prompt is not None
    assert (pair.good.prompt.text, pair.good.text, pair.bad.text) == ("It rained.", "We got wet.", "We flew.")
    assert pair.good.prompt.audio == tmp_path / "1_mutual.wav"


STORY = {f"InputSentence{i}": f"Sentence {i}." for i in (1, 2, 3, 4)}


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_storycloze_of_texts(tmp_path: Path, delimiter: str) -> None:
    quiz = {"RandomFifthSentenceQuiz1": "One end.", "RandomFifthSentenceQuiz2": "Other end."}
    rows = [{"InputStoryid": "a"} | STORY | quiz | {"AnswerRightEnding": "2"}]
    rows += [
        {"InputStoryid": n} | STORY | {k: f"{v} {n}" for k, v in quiz.items()} | {"AnswerRightEnding": "1"}
        for n in "bcd"
    ]
    path = table(tmp_path / "stories.csv", rows, delimiter)
    pairs = read("storycloze", [path])
    assert pairs[0].id == "a"
    assert pairs[0].good.prompt == pairs[0].bad.prompt
    assert pairs[0].good.prompt is not None
    assert pairs[0].good.prompt.text == "Sentence 1. Sentence 2. Sentence 3. Sentence 4."
    assert (pairs[0].good.text, pairs[0].bad.text) == ("Other end.", "One end.")

    rights = [pair.good.text for pair in pairs]
    topic = read("topic-storycloze", [path], seed=3)
    assert [pair.good.text for pair in topic] == rights
    assert all(pair.bad.text in rights and pair.bad.text != pair.good.text for pair in topic)
    assert topic == read("topic-storycloze", [path], seed=3)
    assert len({tuple(p.bad.text for p in read("topic-storycloze", [path], seed=s)) for s in range(9)}) > 1


def test_storycloze_of_texts_by_the_names_in_datasets(tmp_path: Path) -> None:
    row = {f"input_sentence_{i}": f"S{i}." for i in (1, 2, 3, 4)} | {"sentence_quiz1": "E1.", "sentence_quiz2": "E2."}
    (pair,) = read("storycloze", [table(tmp_path / "s.csv", [row | {"story_id": "q", "answer_right_ending": "1"}])])
    assert (pair.id, pair.good.text, pair.bad.text) == ("q", "E1.", "E2.")
    with pytest.raises(SuiteError, match=r"story 1: KeyError: 'answerrightending'"):
        read("storycloze", [table(tmp_path / "t.csv", [row])])


def test_salmon(tmp_path: Path) -> None:
    for part in SALMON_PARTS:
        touch(*(tmp_path / part / f"sample_{i}_{side}.wav" for i in (0, 2, 10) for side in ("correct", "incorrect")))
    pairs = read("salmon", [tmp_path])
    assert [pair.id for pair in pairs[:3]] == ["bg_alignment/0", "bg_alignment/2", "bg_alignment/10"]
    assert {pair.categories["part"] for pair in pairs} == set(SALMON_PARTS)
    assert all(pair.good.audio.name.endswith("_correct.wav") for pair in pairs if pair.good.audio)
    assert len(read("salmon", [tmp_path / "rir_consistency"])) == 3
    (tmp_path / "rir_consistency/sample_2_incorrect.wav").unlink()
    with pytest.raises(SuiteError, match="sample 2 has 1 wavs"):
        read("salmon", [tmp_path])


def test_pairs_of_files_of_sentences_and_of_blimp(tmp_path: Path) -> None:
    touch(tmp_path / "a.wav", tmp_path / "b.flac")
    lines = [
        {"good": "a.wav", "bad": "b.flac", "category": "noise"},
        {"good": "I like cats.", "bad": "I likes cats.", "prompt": "Listen.", "category": {"kind": "verb"}, "id": "v"},
        {
            "sentence_good": "She hid.",
            "sentence_bad": "She hidden.",
            "UID": "verbs",
            "pairID": "5",
            "field": "morphology",
        },
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    files, sentences, blimp = read("pairs", [path])
    assert files.good.audio == tmp_path / "a.wav"
    assert files.categories == {"category": "noise"}
    assert sentences.id == "v"
    assert sentences.bad.prompt is not None
    assert sentences.bad.prompt.text == "Listen."
    assert (blimp.id, blimp.categories) == ("verbs/5", {"field": "morphology", "paradigm": "verbs"})


@pytest.mark.parametrize("line", ["{", '{"good": "a"}', "[1]", '{"good": "no.wav", "bad": "no.wav"}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(line)
    with pytest.raises(SuiteError, match=r"pairs.jsonl:1|no.wav: nothing there"):
        read("pairs", [path])


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_in_there(tmp_path: Path, suite: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(SuiteError, match="empty"):
        read(suite, [tmp_path / ("empty.jsonl" if suite == "pairs" else "empty")])
    with pytest.raises(SuiteError, match="nope: nothing there"):
        read(suite, [tmp_path / "nope"])
