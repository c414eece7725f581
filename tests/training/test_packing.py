"""Packing and the loader: nothing lost, nothing seen across borders, and an order that depends on seed and step alone."""

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UserError
from tests.training.conftest import CARDS
from training.layouts import TasteLayoutOptions, make
from training.layouts.base import IGNORE, NOTHING, Sequence
from training.loader import Loader, Position, open_corpora
from training.options import TrainOptions
from training.packing import PADDING, collate, may_attend, pack
from training.text import load_text

Write = Callable[..., Path]


def numbered(lengths: list[int]) -> list[Sequence]:
    """Sequences whose labels are all different."""
    sequences, first = [], 0
    for number, n in enumerate(lengths):
        labels = np.arange(first, first + n)[:, None]
        sequences.append(
            Sequence(labels + 1, labels, np.ones((n, 1), dtype=np.float32), id=str(number), audio_s=float(n))
        )
        first += n
    return sequences


@given(st.lists(st.integers(1, 70), min_size=1, max_size=40), st.integers(16, 32))
def test_packing_keeps_every_label_once(lengths: list[int], seq_len: int) -> None:
    sequences = numbered(lengths)
    batch = collate(pack(sequences, seq_len), seq_len)
    assert batch.inputs.shape[1] == seq_len
    assert sorted(batch.labels[batch.labels != IGNORE]) == list(range(sum(lengths)))
    assert batch.n_positions == sum(lengths)
    assert batch.audio_s == pytest.approx(sum(lengths))
    assert set(batch.ids) == {s.id for s in sequences}
    empty = batch.documents == PADDING
    assert (batch.inputs[empty] == NOTHING).all()
    assert (batch.labels[empty] == IGNORE).all()
    assert (batch.weights[empty] == 0).all()
    # A document is a run of consecutive labels with positions from 0: nothing from another sequence gets in.
    for documents, labels, positions in zip(batch.documents, batch.labels[..., 0], batch.positions, strict=True):
        for document in set(documents[documents != PADDING]):
            inside = documents == document
            assert (np.diff(labels[inside]) == 1).all()
            assert positions[inside].tolist() == list(range(inside.sum()))


def test_packing_is_dense_and_deterministic() -> None:
    lengths = np.random.default_rng(0).integers(10, 120, 300).tolist()
    rows = pack(numbered(lengths), 512)
    assert sum(lengths) / (len(rows) * 512) > 0.98
    again = pack(numbered(lengths), 512)
    assert [[p.sequence.id for p in row] for row in rows] == [[p.sequence.id for p in row] for row in again]


def test_attention_is_causal_and_inside_documents() -> None:
    seen = may_attend(np.array([[0, 0, 1, 1, PADDING]]))[0].astype(int).tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]


@pytest.fixture
def make_loader(trunk: Path) -> Callable[..., Loader]:
    text = load_text(trunk)

    def load(*corpora: Path, **options: object) -> Loader:
        settings = TrainOptions(**({"seq_len": 64, "batch_tokens": 128, "pool_shards": 2} | options))
        opened, cards = open_corpora(corpora, settings)
        return Loader(opened, make(TasteLayoutOptions(), text.vocabulary, cards), text, settings)

    return load


def ids_of(loader: Loader, n: int, position: Position | None = None) -> list[tuple[list[str], Position]]:
    return [(batch.ids, after) for batch, after in islice(loader.train(position or Position()), n)]


def test_order_depends_on_seed_and_position_alone(write_corpus: Write, make_loader: Callable[..., Loader]) -> None:
    path = write_corpus()
    straight = ids_of(make_loader(path), 40)
    assert straight == ids_of(make_loader(path), 40)
    assert straight != ids_of(make_loader(path, seed=1), 40)
    assert straight[-1][1].epoch >= 2
    for i in (0, 3, 11, 25):
        assert ids_of(make_loader(path), 5, straight[i][1]) == straight[i + 1 : i + 6]


def test_a_pass_has_every_training_row_once_and_no_other(
    write_corpus: Write, make_loader: Callable[..., Loader]
) -> None:
    one, two = write_corpus("one"), write_corpus("two", first=100)
    loader = make_loader(one, two)
    seen: Counter[str] = Counter()
    for batch, after in loader.train(Position()):
        if after.epoch > 0:
            break
        seen.update(batch.ids)
    expected = {row["id"] for corpus in loader.corpora for row in corpus.rows("train")}
    heldout = {row["id"] for corpus in loader.corpora for row in corpus.rows("heldout")}
    assert set(seen) == expected
    assert len(expected) == 48
    # A row longer than a packed sequence is in it once for each piece.
    assert {i for batch in loader.heldout() for i in batch.ids} == heldout


def test_no_training_row_is_an_error_that_says_so(write_corpus: Write, make_loader: Callable[..., Loader]) -> None:
    loader = make_loader(write_corpus(n_train=0, n_heldout=4))
    with pytest.raises(UserError, match="no row is in the split 'train'"):
        next(loader.train(Position()))


def test_a_missing_stream_names_the_row(write_corpus: Write, make_loader: Callable[..., Loader]) -> None:
    """A corpus whose card promises TASTE codes while a row has none."""
    path = write_corpus()
    loader = make_loader(path)
    row = next(loader.corpora[0].rows())
    with pytest.raises(ValueError, match=f"row {row['id']} has no taste_codes"):
        loader.layout.example(row | {"taste_codes": None}, loader.text.encode)


def test_corpora_of_different_tokenizers_do_not_mix(write_corpus: Write, make_loader: Callable[..., Loader]) -> None:
    from dataclasses import replace

    other = write_corpus("other", cards=CARDS | {"taste": replace(CARDS["taste"], revision="else")}, first=100)
    with pytest.raises(UserError, match=r"corpus and .*other differ in tokenizers: taste: .*7a57e.*else"):
        make_loader(write_corpus(), other)
