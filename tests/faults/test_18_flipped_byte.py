"""Fault 18: one byte changed or cut off anywhere in a committed file is found by name, and never read as if it were whole."""

import random
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import cli
from pipeline.store import Store
from pipeline.verify import verify
from tests import made
from training.reader import Corpus, CorpusError


@pytest.fixture(scope="module", params=[("parquet",), ("webdataset",), ("parquet", "webdataset")], ids="+".join)
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    formats: Sequence[str] = request.param
    for index in range(3):
        Store(str(root)).commit(made.block(index, count=2), "f", formats)
    assert verify(str(root)).problems == []
    return root


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), cut=st.booleans())
def test_it_is_named_by_verify_and_stops_or_is_skipped_by_the_reader(corpus: Path, seed: int, cut: bool) -> None:
    rng = random.Random(seed)
    path = rng.choice(sorted(p for p in corpus.rglob("*") if p.is_file() and p.parent.name != "logs"))
    name, block = str(path.relative_to(corpus)), path.stem
    whole = path.read_bytes()
    rows = {row["id"]: row["source"] for row in Corpus(corpus).rows()}
    at = rng.randrange(len(whole))
    path.write_bytes(whole[:at] if cut else whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :])
    try:
        problems = verify(str(corpus)).problems
        assert [p.path for p in problems] == [name]
        assert [p.block for p in problems] == [block]
        read = {"commits", "data" if (corpus / "data").is_dir() else "wds"}
        if path.parent.name in read:
            with pytest.raises(CorpusError, match=name):
                list(Corpus(corpus).rows())
            with pytest.warns(UserWarning, match=name):
                left = {row["id"]: row["source"] for row in Corpus(corpus, "skip").rows()}
            index = int(block[-5:])
            lost = {u.id for u in made.block(index, count=2).utterances}
            assert left == {key: source for key, source in rows.items() if key not in lost}
        else:  # rejections, and the tars beside Parquet: the rows are whole
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert {row["id"]: row["source"] for row in Corpus(corpus).rows()} == rows
    finally:
        path.write_bytes(whole)


def test_forget_takes_the_damaged_block_out_and_nothing_else(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(corpus, root)
    shard = sorted(root.glob("data/*") or root.glob("wds/*"))
    shard = shard or sorted(root.glob("wds/*"))
    data = bytearray(shard[1].read_bytes())
    data[len(data) // 2] ^= 8
    shard[1].write_bytes(data)
    assert cli.main(["verify", str(root)]) == 1
    assert cli.main(["verify", str(root), "--forget"]) == 1
    assert verify(str(root)).problems == []
    assert list(Store(str(root)).commits()) == ["part-00000", "part-00002"]
    Store(str(root)).commit(
        made.block(1, count=2), "f", ["webdataset"] if not (root / "data").is_dir() else ["parquet"]
    )
    assert cli.main(["verify", str(root)]) == 0
