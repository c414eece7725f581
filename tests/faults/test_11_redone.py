"""Faults 11 and 21: what a change makes again, and nothing else; a source that is taken down."""

from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.inspect import read_rows
from pipeline.prepare import plan_of
from pipeline.verify import verify
from schemas.errors import UserError
from tests.conftest import Clip
from tests.faults.conftest import made_at, make, manifest, settings, tree
from transforms.units import quantizer
from transforms.weights import locate


def redone(config: Config, out: Path) -> list[str]:
    """Names of the blocks that a run of `config` into `out` makes."""
    before = made_at(out)
    make(config, out)
    return [name for name, at in sorted(made_at(out).items()) if before.get(name) != at]


def test_each_change_makes_again_what_depends_on_it(source: Path, clips: list[Clip], tmp_path: Path) -> None:
    out, every = tmp_path / "out", ["part-00000", "part-00001", "part-00002"]
    make(settings(source), out)
    first = tree(out)
    assert redone(settings(source), out) == []
    assert redone(settings(source, "train.steps=7", "limits.max_rejected_share=1"), out) == []
    assert redone(settings(source, "filter.max_chars_per_s=34"), out) == every
    assert redone(settings(source, "measure.clip_level=0.9"), out) == every
    assert redone(settings(source, "write.formats=[parquet]"), out) == every
    assert not (out / "wds").exists() or not list((out / "wds").iterdir())
    assert redone(settings(source), out) == every
    assert tree(out) == first
    # One source: other bytes of the same length under the same name.
    audio = source.parent / "1.flac"
    whole = audio.read_bytes()
    audio.write_bytes(clips[1].path.read_bytes()[:-1] + bytes([clips[1].path.read_bytes()[-1] ^ 1]))
    assert redone(settings(source), out) == ["part-00001"]
    audio.write_bytes(whole)
    assert redone(settings(source), out) == ["part-00001"]
    assert tree(out) == first


def test_other_weights_of_the_same_name_make_everything_again(source: Path, tmp_path: Path) -> None:
    centroids = quantizer.load(locate("antiphon-units").path)
    path, out = tmp_path / "q.safetensors", tmp_path / "out"
    centroids.save(path)
    more = ("units.backend=whisper", f"units.quantizer={path}")
    make(settings(source, *more), out)
    assert redone(settings(source, *more), out) == []
    quantizer.Quantizer(
        centroids.centroids[::-1], centroids.encoder, centroids.encoder_sha256, centroids.layer, "reversed"
    ).save(path)
    assert redone(settings(source, *more), out) == ["part-00000", "part-00001", "part-00002"]


def test_a_lost_shard_is_made_again_by_the_next_run(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(settings(source), out)
    whole = tree(out)
    (out / "data" / "part-00001.parquet").unlink()
    record = out / "commits" / "part-00002.json"
    record.write_bytes(record.read_bytes().replace(b"rows", b"rowz"))
    assert redone(settings(source), out) == ["part-00001", "part-00002"]
    assert tree(out) == whole


def test_a_source_that_is_taken_down_is_gone_and_only_its_blocks_are_made_again(
    clips: list[Clip], tmp_path: Path
) -> None:
    """Fault 21. Two clips share a block; the one is excluded, the other stays."""
    source, out = manifest(tmp_path / "in", [clips[0], clips[1], clips[2], clips[3]]), tmp_path / "out"
    together = f"plan.block_s={(len(clips[0].samples) + len(clips[1].samples)) / 16000 + 0.1}"
    lax = "filter.min_align_score=null"
    make(settings(source, together, lax), out)
    assert plan_of(settings(source, together, lax))[0].pieces[1].source.endswith("1.flac")
    rows = {row["id"]: row for row in read_rows(str(out))}
    gone = str(tmp_path / "in" / "1.flac")
    assert any(row["source"] == gone for row in rows.values())
    config = settings(source, together, lax, f"exclude=['{gone}']")
    assert redone(config, out) == ["part-00000"]
    after = {row["id"]: row for row in read_rows(str(out))}
    assert after == {key: row for key, row in rows.items() if row["source"] != gone}
    assert not any(row["source"] == gone for row in read_rows(str(out), "rejected"))
    assert gone not in (out / "plan.jsonl").read_text()
    # The audio itself may go too: its line in the manifest, with its duration, keeps every block where it was.
    (tmp_path / "in" / "1.flac").unlink()
    assert redone(config, out) == []
    assert verify(str(out)).problems == []


def test_a_name_that_no_source_has_is_refused(source: Path) -> None:
    with pytest.raises(UserError, match=r"exclude: no source is called typo\.flac"):
        plan_of(settings(source, "exclude=[typo.flac]"))
