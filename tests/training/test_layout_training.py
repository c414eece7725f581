"""Every layout through the whole loop: a corpus read, laid out, packed, trained on for some steps, saved, and sampled from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import Store
from schemas import Block
from schemas.errors import UserError
from tests.training.conftest import CARDS, RATE_HZ, utterance
from training.checkpoint import load
from training.generate import generate
from training.layouts import NAMES, make
from training.layouts.moshi import MoshiLayout
from training.options import TrainOptions
from training.reader import Corpus
from training.text import load_text
from training.train import train

DIALOGUES = ("speechgpt", "moshi")


def write_dialogues(folder: Path, sentences: list[str], n: int = 6, **columns: object) -> Path:
    """Dialogues of four turns, the first and the last held out; the second turn of each is two rows."""
    store = Store(str(folder))
    block = Block(0, RATE_HZ, tokenizers=dict(CARDS))
    for d in range(n):
        for at, (turn, role) in enumerate(
            [(0, "user"), (1, "assistant"), (1, "assistant"), (2, "user"), (3, "assistant")]
        ):
            number = 10 * d + at
            u = utterance(number, sentences[number % len(sentences)], CARDS, "heldout" if d in (0, n - 1) else "train")
            u.columns |= {"dialogue_id": f"d{d}", "turn": turn, "role": role, "group_id": f"dialogue/d{d}"}
            block.utterances.append(u)
            block.samples_in += u.end - u.start
    store.commit(block, "test", ("parquet",))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_trained_on_for_some_steps_and_sampled_from(
    name: str, write_corpus: Callable[..., Path], sentences: list[str], trunk: Path, tmp_path: Path
) -> None:
    talk = name in DIALOGUES
    corpus = write_dialogues(tmp_path / "talk", sentences) if talk else write_corpus(n_train=6, n_heldout=2)
    layout = NAMES[name].model_validate({"name": name})
    options = TrainOptions(
        layout=layout,
        steps=3,
        warmup=1,
        seq_len=128,
        batch_tokens=128,
        trunk_layers=1,
        eval_every=3,
        lr=1e-2,
    )
    result = train(options, [corpus], trunk, tmp_path / "out", lambda line: None)
    assert result.before is not None
    assert result.after is not None
    assert result.before["streams"].keys() == result.after["streams"].keys() != set()
    assert all(np.isfinite(stream["loss"]) for stream in result.after["streams"].values())
    checkpoint = load(tmp_path / "out")
    assert checkpoint.options.layout == layout
    row = next(Corpus(corpus).rows("heldout", checkpoint.layout.columns))
    words = (
        "" if not checkpoint.layout.apply(checkpoint.layout.example(row, checkpoint.text.encode)).labels.size else "yes"
    )
    done = 0
    for text, prefix in (("yes", None), ("", row), (words, row)):
        try:
            said = generate(checkpoint, text, prefix=prefix, max_s=1.0)
        except UserError as error:
            assert name in str(error)  # noqa: PT017
            continue
        done += 1
        assert said.inputs.shape[1] == len(checkpoint.layout.rows)
        if text and prefix is None and name not in ("codec", "moshi", "spirit-lm", "sims", "taste"):
            assert said.words[0] == "yes"
        assert len(said.units) == 0 or said.units.max() < 24
        assert said.codes.size == 0 or said.codes.max() < 32
    assert done > 0


def test_turns_of_a_dialogue_are_one_example(sentences: list[str], trunk: Path, tmp_path: Path) -> None:
    corpus = Corpus(write_dialogues(tmp_path / "dialogues", sentences, n=2))
    text = load_text(trunk)
    rows = [row for row in corpus.rows() if row["dialogue_id"] == "d0"]
    layout = make(NAMES["speechgpt"].model_validate({}), text.vocabulary, corpus.cards)
    one, two = layout.examples(corpus.rows(columns=layout.columns), text.encode)
    assert [turn.role for turn in one.turns] == ["user", "assistant", "user", "assistant"]
    assert [turn.id for turn in one.turns] == [rows[i]["id"] for i in (0, 1, 3, 4)]
    said = text.encode([word["text"] for row in rows[:5] for word in row["words"]])
    assert one.words == said
    np.testing.assert_array_equal(one.units, np.concatenate([row["units"] for row in rows[:5]]))
    assert one.audio_s == pytest.approx(sum(row["duration_s"] for row in rows[:5]))
    # Words of the second row of a turn come after the first row.
    assert one.turns[1].starts_s[-1] > rows[1]["duration_s"]
    assert (np.diff(one.starts_s) > 0).all()
    assert two.id not in {row["id"] for row in rows}
    assert len(two.turns) == 4


def test_two_speakers_share_a_line_of_time(sentences: list[str], trunk: Path, tmp_path: Path) -> None:
    """Turns follow each other; channels lie where they were, later where the speaker has not yet ended."""
    corpus = Corpus(write_dialogues(tmp_path / "dialogues", sentences, n=1))
    text = load_text(trunk)
    layout = make(NAMES["moshi"].model_validate({}), text.vocabulary, corpus.cards)
    assert isinstance(layout, MoshiLayout)
    rows = list(corpus.rows(columns=layout.columns))
    (example,) = layout.examples(rows, text.encode)
    lengths = [row["codec_codes"].shape[1] for row in rows]
    assert example.codes.shape == (6, sum(lengths))
    bounds = np.cumsum([0, *lengths])
    for i, row in enumerate(rows):
        here = slice(bounds[i], bounds[i + 1])
        spoken, silent = (slice(3), slice(3, 6)) if row["role"] == "assistant" else (slice(3, 6), slice(3))
        np.testing.assert_array_equal(example.codes[spoken, here], row["codec_codes"])
        assert (example.codes[silent, here] == -1).all()
    answers = [i for i in range(5) if rows[i]["role"] == "assistant"]
    assert example.words == text.encode([word["text"] for i in answers for word in rows[i]["words"]])
    first = bounds[1] / layout.card.rate_hz + rows[1]["words"][0]["start_s"]
    assert example.starts_s[0] == pytest.approx(first)

    for row, channel, start_s in zip(rows, (0, 1, 0, 1, 0), (10.0, 10.4, 10.2, 60.0, 70.0), strict=True):
        row |= {"dialogue_id": "", "turn": -1, "role": "", "channel": channel, "start_s": start_s}
    (both,) = layout.examples(rows, text.encode)
    rate = layout.card.rate_hz
    np.testing.assert_array_equal(both.codes[:3, : lengths[0]], rows[0]["codec_codes"])
    # The third begins at 0.2 s, while the first is still speaking: right after it.
    np.testing.assert_array_equal(both.codes[:3, lengths[0] : lengths[0] + lengths[2]], rows[2]["codec_codes"])
    np.testing.assert_array_equal(both.codes[3:, round(0.4 * rate) :][:, : lengths[1]], rows[1]["codec_codes"])
    np.testing.assert_array_equal(both.codes[3:, round(50.0 * rate) :][:, : lengths[3]], rows[3]["codec_codes"])
    assert both.codes.shape[1] == round(60.0 * rate) + lengths[4]
    assert layout.undo(layout.apply(both).inputs).codes.shape == both.codes.shape


@pytest.mark.parametrize("name", DIALOGUES)
def test_rows_outside_a_dialogue_are_refused_with_what_makes_one(
    name: str, write_corpus: Callable[..., Path], trunk: Path, tmp_path: Path
) -> None:
    options = TrainOptions(layout=NAMES[name].model_validate({}), trunk_layers=1, steps=1)
    corpus = write_corpus(n_train=2, n_heldout=2)
    if name == "moshi":  # the corpus says channel 0, as if there were a second one
        layout = make(options.layout, load_text(trunk).vocabulary, CARDS)
        rows = [row | {"channel": -1} for row in Corpus(corpus).rows(columns=layout.columns)]
        with pytest.raises(
            ValueError, match=r"needs: make the corpus with `antiphon dialogues`, or .*channels = split"
        ):
            list(layout.examples(rows, load_text(trunk).encode))
        return
    with pytest.raises(UserError, match=r"part-00000.parquet: row .* needs: make the corpus with `antiphon dialogues`"):
        train(options, [corpus], trunk, tmp_path / "out", lambda line: None)
