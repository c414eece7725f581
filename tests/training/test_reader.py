"""The reader: both formats give the same rows, only what is committed and unharmed counts, and strangers are refused."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Commit
from tests.training.conftest import CARDS
from training.reader import Corpus, CorpusError, _arrays

Write = Callable[..., Path]


def test_rows_come_back_as_they_were_written(write_corpus: Write) -> None:
    corpus = Corpus(write_corpus())
    rows = list(corpus.rows())
    assert len(rows) == 30
    assert corpus.rate_hz == 16000
    assert corpus.cards == CARDS
    assert [row["id"] for row in rows] == [row["id"] for row in corpus.rows()]
    assert {row["split"] for row in rows} == {"train", "heldout"}
    for row in rows:
        n_frames = CARDS["codec"].n_frames(round(row["duration_s"] * 16000))
        assert row["codec_codes"].shape == (3, n_frames)
        assert row["codec_latents"].dtype == row["codec_latent_variance"].dtype == np.float16
        assert row["codec_latents"].shape == row["codec_latent_variance"].shape == (n_frames, 3)
        np.testing.assert_allclose(row["codec_latents"][:, 2], row["codec_codes"][2] / 2 - 1, atol=1e-3)
        assert row["taste_codes"].shape == (len(row["words"]), 2)
        assert row["taste_codes"].dtype == np.int64
        assert row["taste_codes"][:, 0].tolist() == [len(w["text"]) % 16 for w in row["words"]]
        lengths = [len(w["text"]) for w in row["words"]]
        assert row["taste_latents"].dtype == np.float16
        assert np.array_equal(row["taste_latents"], np.outer(lengths, [0.1, -0.25, 3.0]).astype(np.float16))
        assert "audio" not in row


@settings(deadline=None)
@given(
    rows=st.lists(
        st.none() | st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 60000)), min_size=1, max_size=8
    ),
    cut=st.integers(0, 7),
)
def test_arrays_are_what_arrow_holds(rows: list[tuple[int, int, int] | None], cut: int) -> None:
    """Lists and lists of lists, nulls and empty ones among them, in several chunks, the second of which begins within an array."""
    made = [None if row is None else (np.arange(row[0] * row[1]) + row[2]).reshape(row[:2]) for row in rows]
    matrices = pa.array([m if m is None else m.tolist() for m in made], pa.list_(pa.list_(pa.uint16())))
    lists = pa.array([m if m is None else m.ravel().tolist() for m in made], pa.list_(pa.uint16()))
    halves = pa.array(
        [m if m is None else [r.astype(np.float16) for r in m] for m in made], pa.list_(pa.list_(pa.float16()))
    )
    for name, column in (("codec_codes", matrices), ("units", lists), ("codec_latents", halves)):
        found = _arrays(name, pa.chunked_array([column.slice(0, cut), column.slice(cut)]))
        for ours, theirs in zip(found, made, strict=True):
            if theirs is None or ours is None:
                assert ours is theirs is None
                continue
            assert ours.dtype == (np.float16 if name == "codec_latents" else np.int64)
            expected = theirs.ravel() if name == "units" else theirs if len(theirs) else np.zeros((0, 0))
            np.testing.assert_array_equal(ours, expected.astype(ours.dtype))


def test_reading_does_without_pandas(write_corpus: Write) -> None:
    """To load it takes longer than to read many a corpus."""
    code = "import sys; from training.reader import Corpus; print(len(list(Corpus(sys.argv[1]).rows())), 'pandas' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, str(write_corpus())], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["30", "False"]


def test_tar_and_parquet_give_the_same_rows(write_corpus: Write) -> None:
    one = Corpus(write_corpus("parquet"))
    other = Corpus(write_corpus("tar", formats=("webdataset",)))
    assert {shard.path.suffix for shard in other.shards} == {".tar"}
    assert other.cards == one.cards
    for a, b in zip(one.rows(audio=True), other.rows(audio=True), strict=True):
        assert list(a) == list(b)
        for name, value in a.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, b[name])
            elif name == "words":
                assert [w["text"] for w in value] == [w["text"] for w in b[name]]
                np.testing.assert_allclose([w["start_s"] for w in value], [w["start_s"] for w in b[name]], rtol=1e-6)
            else:
                assert value == b[name], name
    assert Corpus(write_corpus("both", formats=("webdataset", "parquet"))).shards[0].path.suffix == ".parquet"


def test_split_and_columns(write_corpus: Write) -> None:
    corpus = Corpus(write_corpus())
    assert sum(1 for _ in corpus.rows("heldout")) == 6
    assert [list(row) for row in corpus.rows("train", ["words", "id"])] == [["id", "words"]] * 24
    with pytest.raises(ValueError, match="no such columns: wrods"):
        next(corpus.rows(columns=["wrods"]))
    assert next(corpus.rows(audio=True))["audio"]["bytes"][:4] == b"fLaC"


def test_only_committed_shards_count(write_corpus: Write) -> None:
    path = write_corpus()
    whole = Corpus(path).fingerprint
    (path / "commits" / "part-00001.json").unlink()
    corpus = Corpus(path)
    assert sum(1 for _ in corpus.rows()) == 20
    assert corpus.fingerprint != whole
    with pytest.raises(CorpusError, match="no corpus"):
        Corpus(path / "data")


@pytest.mark.parametrize("harm", ["flip", "delete"])
def test_a_damaged_shard_stops_or_is_skipped_by_name(write_corpus: Write, harm: str) -> None:
    path = write_corpus()
    shard = path / "data" / "part-00001.parquet"
    if harm == "flip":
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(data)
        corpus = Corpus(path)
        with pytest.raises(CorpusError, match=r"part-00001.parquet: its bytes are not those that were committed"):
            list(corpus.rows())
    else:
        shard.unlink()
        with pytest.raises(CorpusError, match=r"part-00001"):
            list(Corpus(path).rows())
    with pytest.warns(UserWarning, match=r"part-00001.parquet.*10 rows are skipped"):
        assert sum(1 for _ in Corpus(path, "skip").rows()) == 20


def test_shards_of_different_tokenizers_are_refused(write_corpus: Write) -> None:
    write_corpus(n_train=10, n_heldout=0)
    cards = CARDS | {"codec": replace(CARDS["codec"], revision="0ther")}
    path = write_corpus(n_train=10, n_heldout=0, cards=cards, first=50, first_block=1)
    with pytest.raises(
        CorpusError, match=r"part-00000.parquet and data/part-00001.parquet differ .*codec: .*c0ffee.*0ther"
    ):
        Corpus(path)


def test_a_later_schema_is_refused(write_corpus: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.shards.SCHEMA_VERSION", 99)
    with pytest.raises(CorpusError, match="schema version 99"):
        Corpus(write_corpus())


def test_a_foreign_parquet_file_is_refused(write_corpus: Write) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write_corpus()
    shard = path / "data" / "part-00000.parquet"
    pq.write_table(pa.table({"a": [1]}), shard)
    record = path / "commits" / "part-00000.json"
    commit = Commit.from_json(record.read_text())
    with pytest.raises(CorpusError, match="not those that were committed"):
        Corpus(path)
    commit.files["data/part-00000.parquet"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    record.write_text(commit.to_json())
    with pytest.raises(CorpusError, match="not a shard of antiphon's"):
        Corpus(path)


def test_streams_that_were_not_made_are_none(write_corpus: Write) -> None:
    """A shard without a codec stage has no card and no codes."""
    path = write_corpus(cards={"taste": CARDS["taste"]})
    assert set(Corpus(path).cards) == {"taste"}
    assert json.loads((path / "commits" / "part-00000.json").read_text())["rows"] == 10
