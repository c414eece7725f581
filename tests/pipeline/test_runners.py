"""Runner arguments: what is added, and what is refused before a job starts."""

import pytest

from pipeline.runners import complete, value_of
from schemas import Block, Piece
from schemas.errors import UserError


def blocks(uri: str) -> list[Block]:
    return [Block(0, 16000, pieces=[Piece("a", uri, "f")])]


def test_the_in_process_runner_is_said_outright() -> None:
    assert complete([], "corpus", blocks("a.wav")) == ["--runner=FnApiRunner"]
    assert complete(["--runner", "FnApiRunner"], "corpus", blocks("a.wav")) == ["--runner", "FnApiRunner"]


def test_a_cluster_is_not_sent_to_local_files_and_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(UserError) as caught:
        complete(["--runner=DataflowRunner", "--project=p"], "corpus", blocks("a.wav"))
    message = str(caught.value)
    assert "--out corpus" in message
    assert "a.wav" in message
    assert "--region" in message
    assert "--temp_location" in message
    assert "--project" not in message


def test_dask_is_refused() -> None:
    with pytest.raises(UserError, match="--blocks"):
        complete(["--runner=DaskRunner"], "gs://b/corpus", blocks("gs://b/a.wav"))


def test_our_package_is_staged_unless_a_container_has_it() -> None:
    args = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t"]
    staged = complete(args, "gs://b/corpus", blocks("gs://b/a.wav"))
    assert (value_of(staged, "setup_file") or "").endswith("setup.py")
    assert value_of(complete([*args, "--sdk_container_image=i"], "gs://b/c", blocks("gs://b/a")), "setup_file") is None
