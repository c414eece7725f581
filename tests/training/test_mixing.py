"""Several sources in token shares, text without speech, and batches made ahead."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from schemas.errors import UserError
from tests.training.conftest import CARDS
from tests.training.test_train import options, steps_of
from training.checkpoint import Progress
from training.layouts import CodecLayoutOptions, make
from training.layouts.base import IGNORE, NOTHING
from training.loader import Loader, Position
from training.mixing import Mixture, Place, ahead
from training.options import TextSource, TrainOptions
from training.reader import Corpus
from training.text import load_text
from training.text_data import TextLoader
from training.train import train

Write = Callable[..., Path]


@pytest.fixture
def texts(tmp_path: Path, sentences: list[str]) -> Path:
    """A folder with real sentences as jsonl and as Parquet."""
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = [json.dumps({"text": sentence}) for sentence in sentences[:200]]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n\n")
    pq.write_table(pa.table({"text": [*sentences[200:300], None]}), folder / "b.parquet", row_group_size=40)
    return folder


def sources(trunk: Path, texts: Path, *corpora: Path, **changed: Any) -> list[Loader]:
    text = load_text(trunk)
    settings = TrainOptions(seq_len=128, batch_tokens=256, layout=CodecLayoutOptions(), **changed)
    layout = make(settings.layout, text.vocabulary, CARDS)
    speech = [Loader([Corpus(path)], layout, text, settings) for path in corpora]
    return [*speech, TextLoader(TextSource(path=str(texts)), layout, text, settings)]


def test_documents_fill_the_text_row_alone(trunk: Path, texts: Path, sentences: list[str]) -> None:
    (loader,) = sources(trunk, texts)
    found = list(loader.sequences(range(loader.n_shards), "train"))
    assert isinstance(loader, TextLoader)
    decoded = [loader.text.tokenizer.decode([i for i in s.inputs[:, 0] if i < 400]) for s in found]
    assert sorted(decoded) == sorted(sentences[:300])
    for sequence in found[:5]:
        assert (sequence.inputs[:, 1:] == NOTHING).all()
        assert (sequence.labels[:, 1:] == IGNORE).all()
        np.testing.assert_array_equal(sequence.labels[:-1, 0], sequence.inputs[1:, 0])


def test_tokens_come_in_the_stated_shares_and_in_one_order(write_corpus: Write, trunk: Path, texts: Path) -> None:
    """And from any place on as if there had been no stop."""
    corpora = [write_corpus("a"), write_corpus("b", first=50)]

    def stream(place: Place | None = None) -> Iterator[tuple[Any, Place]]:
        mixture = Mixture(sources(trunk, texts, *corpora), [5, 2, 3])
        return mixture.train(place or mixture.start())

    run = list(islice(stream(), 120))
    tokens = run[-1][1].tokens
    np.testing.assert_allclose(np.array(tokens) / sum(tokens), [0.5, 0.2, 0.3], atol=0.03)
    for batch, _ in run:  # each of one modality
        spoken = (batch.labels[..., 1:] != IGNORE).any()
        assert spoken != all("@" in name for name in batch.ids)
    again = [batch.ids for batch, _ in islice(stream(run[29][1]), 10)]
    assert again == [batch.ids for batch, _ in run[30:40]]
    seconds = {name for batch, _ in run for name in batch.ids if "@" not in name}
    assert len(seconds) == 48  # nothing is left out


def test_training_with_text_resumes_to_the_bit(write_corpus: Write, trunk: Path, texts: Path, tmp_path: Path) -> None:
    settings = options(
        steps=6, schedule="constant", text=[{"path": str(texts), "share": 0.4}], layout={"name": "codec"}
    )
    corpus = write_corpus()
    train(settings, [corpus], trunk, tmp_path / "straight", lambda line: None)
    train(settings.model_copy(update={"steps": 3}), [corpus], trunk, tmp_path / "halves", lambda line: None)
    train(settings, [corpus], trunk, tmp_path / "halves", lambda line: None)
    one, two = ([e for e in steps_of(tmp_path / n) if "loss" in e] for n in ("straight", "halves"))
    assert one == two
    assert any(set(entry["streams"]) == {"text", "pad"} for entry in one)


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"txt": "a"}\n', "no text under 'text'"), ("not json\n", "no text under"), ('{"text": 3}\n', "is not a text")],
)
def test_bad_text_is_named(trunk: Path, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    (loader,) = sources(trunk, path)
    with pytest.raises(UserError, match=rf"bad\.jsonl.*{said}"):
        next(loader.train(Position()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jsonl"):
        sources(trunk, tmp_path / "empty")
    with pytest.raises(UserError, match=r"neither \.jsonl nor \.parquet"):
        sources(trunk, trunk / "config.json")


def test_shares_must_fit(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 shares, and there are 1 corpora"):
        train(options(corpus_shares=(1.0, 2.0)), [write_corpus()], trunk, tmp_path / "out", lambda line: None)


def test_places_of_earlier_checkpoints_are_read() -> None:
    fields = {"step": 3, "position": {"epoch": 1, "pool": 0, "batch": 2}, "corpora": ["a"], "tokens": 5, "audio_s": 1.0}
    assert Progress.from_json(fields).position == Place((Position(1, 0, 2),), (0,))


def test_batches_made_ahead_are_the_same_and_so_are_errors() -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise UserError("at the sixth")

    for count in (0, 1, 3):
        found = ahead(numbers(), count)
        assert list(islice(found, 5)) == list(range(5))
        with pytest.raises(UserError, match="at the sixth"):
            next(found)
    endless = ahead(iter(int, 1), 2)
    assert list(islice(endless, 3)) == [0, 0, 0]
    endless.close()  # ends the thread


def test_padding_is_little_where_there_is_enough_to_pack(write_corpus: Write, trunk: Path, texts: Path) -> None:
    loader = sources(trunk, texts, write_corpus(n_train=150))[0]
    batches = [batch for batch, at in islice(loader.train(Position()), 40) if at.epoch == 0]
    size, filled = (sum(counts) for counts in zip(*((b.documents.size, b.n_positions) for b in batches), strict=True))
    assert 1 - filled / size < 0.02


def test_every_precision_and_tracker_runs(write_corpus: Write, trunk: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = options(steps=3, precision="bf16", track=("tensorboard",), layout={"name": "codec"})
    train(settings, [write_corpus()], trunk, tmp_path / "out", lambda line: None)
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    steps = [entry for entry in steps_of(tmp_path / "out") if "loss" in entry]
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("streams/text")] == pytest.approx(
        [entry["streams"]["text"] for entry in steps]
    )
    assert torch.isfinite(torch.tensor([entry["loss"] for entry in steps])).all()
    assert {"heldout/total", "machine/mfu", "padding"} <= set(events.Tags()["scalars"])
