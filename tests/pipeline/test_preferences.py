"""Continuations of real speech, judged; pairs that are clear; runs that were stopped; and DPO's reading of what is written."""
# ruff: noqa: F401, F811  (fixtures of another folder)

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from pipeline.cli import main
from pipeline.clips import Clip, hear
from pipeline.config import Config
from pipeline.continuations import PromptOptions, continue_, cut, mean_run, prompts_of, wer
from pipeline.evaluate_generation import evaluate_generation, texts
from pipeline.preferences import PairOptions, PreferenceOptions, choose, make_preferences, score
from schemas.errors import UserError
from tests.conftest import Clip as Speech
from tests.training.conftest import sentences, trunk, write_corpus
from training.checkpoint import Checkpoint, build, load, save
from training.layouts import CodecLayoutOptions, make
from training.layouts.base import IGNORE
from training.model import load_trunk
from training.options import TrainOptions
from training.packing import Piece, collate
from training.preferences import read_preferences
from training.reader import Corpus
from training.scoring import lay
from training.text import load_text
from transforms.codec.stage import CodecOptions, card, make_codec
from transforms.dialogue.speak import SpeakOptions


@dataclass
class Speaker:
    """A small model that has heard three clips of real speech, their corpus, and a text LM."""

    model: Path
    corpus: Path
    lm: str


@pytest.fixture(scope="module")
def speaker(speech: list[Speech], trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaker]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("speaker")
    clips = []
    for i, clip in enumerate(speech[:3]):
        wav = folder / f"{i}.wav"
        soundfile.write(wav, clip.samples[: 4 * clip.rate_hz], clip.rate_hz)
        clips.append(Clip(" ".join(clip.text.lower().split()[:8]), wav))
    options = TrainOptions(layout=CodecLayoutOptions(), trunk_layers=2)
    cards = {"codec": card(CodecOptions(), make_codec(CodecOptions()))}
    text = load_text(trunk)
    layout = make(options.layout, text.vocabulary, cards)
    run = Checkpoint(build(load_trunk(trunk, 2), layout, options), text, layout, cards, options)
    heard = hear(
        run,
        clips,
        folder / "corpus",
        words="given",
        language="en",
        voice=SpeakOptions(),
        config=Config(),
        say=lambda line: None,
    )
    laid = [lay(run, heard.rows[clip]) for clip in clips]
    batch = collate([[Piece(s, 0, len(s.inputs))] for s in laid], max(len(s.inputs) for s in laid))
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-2)
    for _ in range(50):
        run.model.loss(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    save(folder / "model", run, optimizer)
    yield Speaker(folder / "model", folder / "corpus/recorded", str(trunk))
    torch.set_num_threads(before)


def options(speaker: Speaker, **changed: Any) -> PreferenceOptions:
    """Short and permissive: what so small a model says is hardly ever a word."""
    pair = {"margin": 0.0, "min_words": 1, "max_auto_bleu": 1.0, "max_run": 1000}
    small = {"lm": speaker.lm, "prompt_s": 1.5, "min_s": 2.0, "max_s": 0.8, "continuations": 2, "pair": pair}
    return PreferenceOptions.model_validate(small | changed)


def test_prompts_end_with_a_word(speaker: Speaker) -> None:
    run, corpus = load(speaker.model), Corpus(speaker.corpus)
    rows = {row["id"]: row for row in corpus.rows()}
    prompts = list(prompts_of(run, corpus, options(speaker)))
    assert len(prompts) == 3
    for prompt in prompts:
        row = rows[prompt.id]
        ends = [word["end_s"] for word in row["words"]]
        assert prompt.seconds == min(ends, key=lambda end_s: abs(end_s - 1.5))
        assert f"{prompt.text} {prompt.follows}".split() == [word["text"] for word in row["words"]]
        n = prompt.row["codec_codes"].shape[1]
        assert n == round(prompt.seconds * run.cards["codec"].rate_hz)
        assert np.array_equal(prompt.row["codec_codes"], row["codec_codes"][:, :n])
    plain = cut(run, rows[prompts[0].id], 1.5, at_word=False)
    assert plain.seconds == 1.5
    assert all(word["end_s"] <= 1.5 for word in plain.row["words"])
    assert len(list(prompts_of(run, corpus, options(speaker, prompts=2)))) == 2
    assert not list(prompts_of(run, corpus, options(speaker, min_s=5.0)))


def test_the_real_words_can_be_given(speaker: Speaker) -> None:
    run, corpus = load(speaker.model), Corpus(speaker.corpus)
    for prompt in prompts_of(run, corpus, options(speaker)):
        made, words, codes = continue_(run, prompt, 0, options(speaker, given_text=True, max_s=3.0))
        assert words == prompt.follows.split()
        heard, follows = prompt.text.split(), prompt.follows.split()
        assert made.words[: len(heard)] == heard
        # Said in order, as many as there is time for; a word of more than one token may be cut short by the end.
        said = made.words[len(heard) :]
        assert said[:-1] == follows[: max(0, len(said) - 1)] or said[: len(follows)] == follows
        assert codes.shape[1] == made.codes.shape[1] - prompt.row["codec_codes"].shape[1]


def test_generation_is_measured_and_kept(speaker: Speaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["split=train", "prompt_s=1.5", "min_s=2", "max_s=1", f"lm={speaker.lm}", "prompts=2"]
    command = ["evaluate", "generation", str(speaker.model), str(speaker.corpus), "--out", str(tmp_path)]
    assert main([*command, *(part for one in given for part in ("--set", one))]) == 0
    printed = capsys.readouterr()
    assert "step 0: 2 prompts of about 1.5 s, continued by up to 1.0 s" in printed.out
    assert "GenPPL" in printed.out
    lines = [json.loads(line) for line in (tmp_path / "continuations.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        samples, rate_hz = soundfile.read(tmp_path / f"{line['id']}.wav")
        assert line["seconds"] < len(samples) / rate_hz <= line["seconds"] + 2.5
        assert line["seconds"] <= 1.05
        assert line["real_nll"][1] > 0  # the words that follow are there, whatever the model says
    with pytest.raises(UserError, match="no row of the split 'heldout' lasts"):
        evaluate_generation(speaker.model, speaker.corpus, PromptOptions(lm=speaker.lm))


def test_texts_are_summed_up_both_ways() -> None:
    found = texts(["a b", "a a a", ""], [(2.0, 2), (9.0, 3), (0.0, 0)])
    assert found.perplexity == pytest.approx(np.exp((1 + 3) / 2))
    assert found.by_token == pytest.approx(np.exp(11 / 5))
    assert found.auto_bleu == pytest.approx(1 / 3)
    assert found.empty == 1
    assert texts([""], [(0.0, 0)]).perplexity is None


@pytest.fixture(scope="module")
def straight(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Continuations of three prompts, made in one go."""
    folder = tmp_path_factory.mktemp("straight")
    assert make_preferences(speaker.model, speaker.corpus, folder, options(speaker)).prompts == 3
    return folder


def test_a_stopped_run_goes_on_to_the_same_bytes(speaker: Speaker, straight: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    lines = (straight / "candidates.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 3

    make_preferences(speaker.model, speaker.corpus, stopped, options(speaker, prompts=1))
    with (stopped / "candidates.jsonl").open("ab") as stream:
        stream.write(lines[1][:100])  # killed while it wrote
    said: list[str] = []
    make_preferences(speaker.model, speaker.corpus, stopped, options(speaker), said.append)
    assert [line.partition(":")[0] for line in said] == ["2", "3"]
    names = ("candidates.jsonl", "preferences.parquet", "preferences.jsonl", "config.json")
    for name in names:
        assert (straight / name).read_bytes() == (stopped / name).read_bytes(), name

    # Other margins need no new sampling; another temperature does.
    said.clear()
    strict = options(speaker, pair={"margin": 1000.0, "min_words": 1})
    assert make_preferences(speaker.model, speaker.corpus, stopped, strict, said.append).pairs == 0
    assert not said
    with pytest.raises(UserError, match="continuations of another temperature: give another --out folder"):
        make_preferences(speaker.model, speaker.corpus, stopped, options(speaker, temperature=0.5))


def test_what_is_written_is_what_dpo_reads(
    speaker: Speaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows are made of candidates whose measures are set here: what is heard from so small a model is left to chance."""
    make_preferences(speaker.model, speaker.corpus, tmp_path, options(speaker))
    path = tmp_path / "candidates.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for candidate, nll in zip(line["candidates"], (5.0, 3.0), strict=True):
            candidate |= {"transcript": "some words here", "nll": nll, "auto_bleu": 0.0, "run": 1.0}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    given = ["lm=" + speaker.lm, "prompt_s=1.5", "min_s=2.0", "max_s=0.8", "continuations=2", "pair.margin=1.5"]
    command = ["preferences", str(speaker.model), str(speaker.corpus), "--out", str(tmp_path)]
    assert main([*command, *(part for one in given for part in ("--set", one))]) == 0
    printed = capsys.readouterr().out
    assert "3 prompts, 3 clear pairs" in printed
    assert "nll            3.000     5.000" in printed

    run = load(speaker.model)
    rows = pq.read_table(tmp_path / "preferences.parquet", use_threads=False).to_pylist()
    pairs = read_preferences(tmp_path / "preferences.parquet", run.layout)
    corpus = {row["id"]: row for row in Corpus(speaker.corpus).rows()}
    for row, pair, line in zip(rows, pairs, lines, strict=True):
        assert row["chosen"]["score"] == -3.0
        assert row["rejected"]["score"] == -5.0
        assert json.loads(row["scorer"])["likelihood"] == 1.0
        assert row["scorer_version"] == 1
        assert row["policy_ckpt"].startswith("step-000000 ")
        assert row["seed"] == 0
        assert row["prompt"]["text"] == line["prompt"]
        n = len(row["prompt"]["codes"][0])
        assert np.array_equal(row["prompt"]["codes"], corpus[pair.id]["codec_codes"][:, :n])
        for side in (pair.chosen, pair.rejected):
            # Codes: position 1 + frame + delay; no label stands on a frame of the prompt.
            for k, delay in enumerate(run.layout.delays):  # type: ignore[attr-defined]
                labelled = np.flatnonzero(side.labels[:, 1 + k] != IGNORE) + 1
                assert (labelled >= 1 + n + delay).all()
    # And the loop learns from it, by its command.
    command = ["dpo", str(speaker.model), str(tmp_path / "preferences.parquet"), "--out", str(tmp_path / "dpo")]
    assert main([*command, "--set", "steps=2", "--set", "eval_every=0", "--set", "pairs=2"]) == 0
    assert "margin" in capsys.readouterr().out
    assert (tmp_path / "dpo/checkpoints/step-000002").is_dir()
    assert main([*command, "--set", "betta=1", "--set", "steps=0"]) == 2
    told = capsys.readouterr().err
    assert "betta: there is no such field" in told
    assert "steps: Input should be greater than or equal to 1" in told

    brief = [json.loads(text) for text in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert brief[0]["chosen"]["text"] == "some words here"
    assert "inputs" not in brief[0]["chosen"]


def candidate(**changed: Any) -> dict[str, Any]:
    return {"transcript": "a b c", "nll": 3.0, "wer": 0.5, "dnsmos": None, "auto_bleu": 0.0, "run": 1.0} | changed


def test_scores_are_weighted_sums() -> None:
    everything = PairOptions(likelihood=2.0, wer=1.0, repetition=0.5)
    assert score(candidate(auto_bleu=0.2), everything) == pytest.approx(-6.0 + 0.5 + 0.4)
    assert score(candidate(nll=None), everything) is None
    assert score(candidate(wer=None), PairOptions()) == -3.0
    assert score(candidate(), PairOptions(dnsmos=1.0)) is None
    assert score(candidate(dnsmos=3.0), PairOptions(dnsmos=1.0)) == 0.0


def test_only_clear_pairs_are_kept() -> None:
    options = PairOptions(margin=1.0)
    good, bad, middle = candidate(nll=2.0), candidate(nll=4.0), candidate(nll=3.5)
    assert choose([middle, bad, good], options) == ((2, -2.0), (1, -4.0))
    assert choose([middle, bad], options) == "too close"
    assert choose([good, candidate(nll=None)], options) == "fewer than two continuations with words"
    assert choose([good, candidate(nll=9.0, transcript="a b")], options) == "fewer than two continuations with words"
    # A text LM likes what repeats itself: that is never chosen, and may be rejected.
    loop = candidate(nll=0.5, auto_bleu=0.9)
    assert choose([loop, good, bad], options) == ((1, -2.0), (2, -4.0))
    assert choose([loop, candidate(nll=0.2, run=50.0)], options) == "all repeat themselves"


def test_small_measures() -> None:
    assert wer("Don't go home", "do not go home!", "en") == 0.0
    assert wer("one two", "", "en") == 1.0
    assert wer("", "something", "en") is None
    assert mean_run(np.array([1, 1, 1, 2, 2, 3])) == 2.0
    assert mean_run(np.array([4])) == 1.0


def test_a_layout_without_sound_cannot_be_judged(
    write_corpus: Any, trunk: Path, tmp_path: Path, speaker: Speaker
) -> None:
    from training.train import train

    corpus = write_corpus()
    small = TrainOptions(trunk_layers=2, steps=1, eval_every=0, seq_len=64, batch_tokens=64)
    result = train(small, [corpus], trunk, tmp_path / "taste", lambda line: None)
    with pytest.raises(UserError, match="layout taste has no codec codes"):
        make_preferences(result.checkpoint, corpus, tmp_path / "out", options(speaker))
