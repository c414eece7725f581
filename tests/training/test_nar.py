"""VALL-E's second stage: what is seen and what is not, what is learnt, and an utterance said by both stages."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store import Store
from schemas import Block
from schemas.errors import UserError
from tests.training.conftest import CARDS, RATE_HZ, utterance
from tests.training.laid import examples, layout_of, shown
from tests.training.test_scoring import checkpoint, rows
from tests.training.test_train import options, steps_of, stop_after
from training.attention import DOCUMENTS
from training.checkpoint import Checkpoint, load
from training.evaluate import evaluate
from training.filling import fill
from training.generate import Sampling, generate
from training.layouts import Example
from training.layouts.base import IGNORE, Sequence
from training.layouts.nar import NarLayout, NarLayoutOptions
from training.options import TrainOptions
from training.packing import Piece, collate, pack
from training.reader import Corpus
from training.scoring import Scoring, lay, score_sequences
from training.train import train

Write = Callable[..., Path]
CODES = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [1, 3, 5, 7, 9]])


def nar(**changed: Any) -> NarLayout:
    layout = layout_of("valle-nar", **changed)
    assert isinstance(layout, NarLayout)
    return layout


def test_worked_example() -> None:
    """As in the module's head: each stage sees the codebooks before it, and of the prompt all."""
    layout = nar()
    stages = [layout.stage([[0], [1, 15]], CODES, k, 2) for k in (1, 2)]
    one, two = (shown(layout, inputs) for inputs, _ in stages)
    said = ["bos", "0", "1", "15", "[Speech]", "-", "-"]
    assert one[0] == said + ["[codec_1]"] * 3
    assert two[0] == said + ["[codec_2]"] * 3
    assert [" ".join(row[5:]) for row in one[1:]] == ["0 1 2 3 4", "5 6 - - -", "1 3 - - -"]
    assert [" ".join(row[5:]) for row in two[1:]] == ["0 1 2 3 4", "5 6 7 8 9", "1 3 - - -"]
    for k, (_, labels) in enumerate(stages, start=1):
        assert labels[7:, 1 + k].tolist() == CODES[k, 2:].tolist()
        assert (labels != IGNORE).sum() == 3


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_with_its_labels_put_in_an_example_comes_back_whole(data: st.DataObject) -> None:
    layout = nar()
    example = data.draw(examples(layout))
    laid = layout.apply(example)
    words, codes, _ = layout.undo(np.where(laid.labels == IGNORE, laid.inputs, laid.labels))
    assert words == example.words
    np.testing.assert_array_equal(codes, example.codes)
    # Every code after the prompt and the first codebook is learnt once, and no other.
    n_learnt = example.codes.shape[1] - layout.prompt_frames(example)
    assert (laid.labels != IGNORE).sum(axis=0).tolist() == [0, 0, n_learnt, n_learnt]
    # Two documents, and pieces that keep to them however short they are.
    (start, middle), (again, end) = laid.bounds
    assert (start, again, end) == (0, middle, len(laid.inputs))
    for row in pack([laid], data.draw(st.integers(1, 40))):
        assert all(piece.end <= middle or piece.start >= middle for piece in row)


def test_prompts_follow_from_the_id_alone_and_take_every_length() -> None:
    layout = nar(prompt_s=3.0)
    codes = np.zeros((3, 100), dtype=np.int64)
    found = [layout.prompt_frames(Example([], np.zeros(0), codes, str(i))) for i in range(600)]
    most = round(3.0 * layout.card.rate_hz)
    assert set(found) == set(range(most + 1))
    assert found == [nar().prompt_frames(Example([], np.zeros(0), codes, str(i))) for i in range(600)]
    assert nar().prompt_frames(Example([], np.zeros(0), codes[:, :3], "0")) <= 1


def of_row(run: Checkpoint, sentences: list[str], number: int = 0) -> Example:
    (row,) = rows(sentences, range(number, number + 1))
    return run.layout.example(row, run.text.encode)


@torch.no_grad()
def stage_logits(run: Checkpoint, example: Example, k: int) -> list[torch.Tensor]:
    """What the model makes of the positions of codebook k's stage, with a prompt of four frames."""
    layout = run.layout
    assert isinstance(layout, NarLayout)
    inputs, labels = layout.stage(example.words, example.codes, k, 4)
    laid = Sequence(inputs, labels, np.zeros(labels.shape, np.float32))
    hidden = run.model.batch_hidden(collate([[Piece(laid, 0, len(inputs))]], len(inputs)))[0]
    return run.model.speech_logits(hidden[-example.codes.shape[1] :])[k]


def fresh(trunk: Path) -> Checkpoint:
    run = checkpoint(trunk, NarLayoutOptions())
    assert run.model.speech_head is not None
    torch.nn.init.normal_(run.model.speech_head.weight, generator=torch.Generator().manual_seed(0))
    return run


@pytest.mark.parametrize("attention", ["sdpa", DOCUMENTS])
def test_a_code_depends_on_earlier_codebooks_everywhere_and_on_later_ones_in_the_prompt_alone(
    trunk: Path, sentences: list[str], attention: str
) -> None:
    run = fresh(trunk)
    run.model.trunk.set_attn_implementation(attention)
    example = of_row(run, sentences)
    for k in (1, 2):
        before = stage_logits(run, example, k)
        for book in range(3):
            for frame in (1, 9, example.codes.shape[1] - 1):
                codes = example.codes.copy()
                codes[book, frame] = (codes[book, frame] + 1) % 8
                same = torch.equal(stage_logits(run, replace(example, codes=codes), k)[8], before[8])
                # The code of frame 8: also of what comes after it, and not of itself.
                assert same is (book >= k and frame >= 4), (k, book, frame)
        assert not torch.equal(stage_logits(run, replace(example, words=example.words[1:]), k)[8], before[8])


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", DOCUMENTS])
def test_packed_documents_do_not_see_each_other(trunk: Path, sentences: list[str], attention: str) -> None:
    run = fresh(trunk)
    run.model.trunk.set_attn_implementation(attention)
    laid = [run.layout.apply(of_row(run, sentences, i)) for i in range(3)]
    n = 2 * max(len(s.inputs) for s in laid)
    packed = collate(pack(laid, n), n)
    assert packed.documents.max() > 1
    together = run.model.label_losses(packed).by_stream()
    alone = [run.model.label_losses(collate([[p]], len(p))).by_stream() for s in laid for p in pack([s], n)[0]]
    assert set(together.total) == {"codec_1", "codec_2"}
    for stream, total in together.total.items():
        assert total == pytest.approx(sum(found.total.get(stream, 0.0) for found in alone), rel=1e-4)


@torch.no_grad()
def test_scores_are_of_labels_where_they_stand(trunk: Path, sentences: list[str]) -> None:
    run = fresh(trunk)
    laid = lay(run, rows(sentences, range(1))[0])
    (streams,) = score_sequences(run, [laid], Scoring(how="sum"))
    example = of_row(run, sentences)
    n_prompt = run.layout.prompt_frames(example)  # type: ignore[attr-defined]
    for k in (1, 2):
        inputs, _ = run.layout.stage(example.words, example.codes, k, n_prompt)  # type: ignore[attr-defined]
        hidden = run.model.hidden(
            torch.from_numpy(inputs)[None], attention_mask=torch.zeros(1, 1, len(inputs), len(inputs))
        )
        scores = run.model.speech_logits(hidden[0, n_prompt - example.codes.shape[1] :])[k].log_softmax(-1)
        by_hand = scores.gather(-1, torch.from_numpy(example.codes[k, n_prompt:])[:, None]).sum()
        assert streams[f"codec_{k}"].total == pytest.approx(float(by_hand), rel=1e-4)
        assert streams[f"codec_{k}"].labels == example.codes.shape[1] - n_prompt
    assert streams["codec_0"].labels == streams["text"].labels == 0


def test_resume_is_to_the_bit_and_losses_fall_by_codebook(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    corpus, given_ = write_corpus(), options(layout={"name": "valle-nar"}, steps=8)
    straight = train(given_, [corpus], trunk, tmp_path / "straight", lambda line: None)
    first = train(given_, [corpus], trunk, tmp_path / "halves", stop_after(4, signal.SIGTERM))
    assert (first.interrupted, first.step) == (True, 4)
    train(given_, [corpus], trunk, tmp_path / "halves", lambda line: None)
    assert steps_of(tmp_path / "halves") == steps_of(tmp_path / "straight")
    train(given_.model_copy(update={"attention": "mask"}), [corpus], trunk, tmp_path / "mask", lambda line: None)
    losses = {name: [e["loss"] for e in steps_of(tmp_path / name) if "loss" in e] for name in ("straight", "mask")}
    assert losses["mask"] == pytest.approx(losses["straight"], rel=1e-3)
    assert straight.before
    assert straight.after
    assert straight.before["streams"].keys() == {"codec_1", "codec_2"}
    for stream, report in straight.after["streams"].items():
        assert report["loss"] < straight.before["streams"][stream]["loss"]
    assert evaluate(tmp_path / "straight", corpus).streams.keys() == {"codec_1", "codec_2"}


@dataclass(frozen=True)
class Learnt:
    """Both stages, which know the two utterances of a corpus by heart; the second without prompts, and with."""

    corpus: Path
    speaker: Checkpoint
    filler: Checkpoint
    prompted: Checkpoint


@pytest.fixture(scope="module")
def learnt(trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("learnt")
    block = Block(0, RATE_HZ, tokenizers=dict(CARDS))
    for number, sentence in enumerate(("I like cats.", "Yes.")):
        u = utterance(number, sentence, CARDS, "train")
        block.utterances.append(u)
        block.samples_in += u.end - u.start
    Store(str(folder / "corpus")).commit(block, "test", ("parquet",))
    runs = []
    layouts = {"name": "vall-e", "codebooks": 1}, {"name": "valle-nar", "prompt_s": 0}, {"name": "valle-nar"}
    for number, layout in enumerate(layouts):
        given_ = TrainOptions.model_validate(
            {
                "layout": layout,
                "steps": 150,
                "lr": 1e-2,
                "trunk_lr": 3e-3,
                "warmup": 5,
                "eval_every": 0,
                "trunk_layers": 2,
            }
        )
        out = folder / str(number)
        train(given_, [folder / "corpus"], trunk, out, lambda line: None)
        runs.append(load(out))
    return Learnt(folder / "corpus", *runs)


def test_both_stages_say_exactly_what_they_learnt(learnt: Learnt) -> None:
    speaker, filler = learnt.speaker, learnt.filler
    for row in Corpus(learnt.corpus).rows():
        text = " ".join(word["text"] for word in row["words"])
        said = generate(speaker, text, sampling=Sampling(temperature=0), filler=filler)
        assert said.text == text
        np.testing.assert_array_equal(said.codes, row["codec_codes"])
        # After a beginning of real speech, which is the prompt of both.
        prompted = learnt.prompted
        n_prompt = prompted.layout.prompt_frames(prompted.layout.example(row, prompted.text.encode))  # type: ignore[attr-defined]
        assert n_prompt > 0
        part = row | {"codec_codes": row["codec_codes"][:, :n_prompt]}
        said = generate(speaker, prefix=part, sampling=Sampling(temperature=0), filler=prompted)
        np.testing.assert_array_equal(said.codes, row["codec_codes"])
        # The second stage alone: a row filled from its first codebook.
        said = generate(filler, prefix=row)
        np.testing.assert_array_equal(said.codes, row["codec_codes"])
        assert said.drawn.sum() > 0
        np.testing.assert_array_equal(filler.layout.undo(said.inputs).codes, row["codec_codes"])


def test_what_is_there_already_stays(learnt: Learnt) -> None:
    filler = learnt.filler
    codes = np.array([[1, 2, 3, 4], [9, 9, 9, 9]])
    prompt = np.array([[7], [8], [9]])
    found = fill(filler, [], codes, prompt)
    assert found.shape == (3, 4)
    np.testing.assert_array_equal(found[:, 0], prompt[:, 0])
    np.testing.assert_array_equal(found[:2, 1:], codes[:, 1:])
    assert fill(filler, [], codes[:, :0], prompt[:, :0]).shape == (3, 0)
    np.testing.assert_array_equal(fill(filler, [], codes[:, :1], prompt), prompt)


def test_what_cannot_be_is_refused(learnt: Learnt) -> None:
    speaker, filler, corpus = learnt.speaker, learnt.filler, learnt.corpus
    with pytest.raises(UserError, match="layout valle-nar fills the further codebooks"):
        generate(filler, "yes")
    with pytest.raises(UserError, match="has nothing to fill"):
        generate(filler, prefix=next(Corpus(corpus).rows()), filler=speaker)
    with pytest.raises(UserError, match="other tokens"):
        generate(replace(speaker, cards={"codec": replace(CARDS["codec"], revision="other")}), "yes", filler=filler)
    with pytest.raises(UserError, match="the codebooks after the first"):
        layout_of("valle-nar", {"codec": replace(CARDS["codec"], sizes=(8,))})
    for more in ({"model": {"depth": {}}}, {"loss": {"text_kl": 0.5}}, {"text": ({"path": "a.jsonl"},)}):
        with pytest.raises(ValueError, match="one codebook at a time"):
            TrainOptions.model_validate({"layout": {"name": "valle-nar"}} | more)
