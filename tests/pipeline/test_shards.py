"""Shards: the same bytes each time, and what other people's readers make of them."""

import dataclasses
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import shards
from schemas import Block, Latents, Tokenizer
from schemas import record as records
from tests import made


def written(block: Block, folder: Path) -> tuple[Path, Path]:
    rows = shards.rows_of(block)
    parquet, tar = folder / "part-00000.parquet", folder / "part-00000.tar"
    parquet.write_bytes(shards.parquet(rows, 16000, block.tokenizers))
    tar.write_bytes(shards.tar(rows, 16000, block.tokenizers))
    return parquet, tar


def test_the_same_block_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = shards.rows_of(made.block()), shards.rows_of(made.block())
    cards = made.block().tokenizers
    backwards = dict(reversed(cards.items()))
    assert shards.parquet(first, 16000, cards) == shards.parquet(second, 16000, backwards)
    assert shards.tar(first, 16000, cards) == shards.tar(second, 16000, backwards)


def test_a_row_comes_back_as_the_utterance_it_was(tmp_path: Path) -> None:
    block = made.block()
    parquet, _ = written(block, tmp_path)
    for before, row in zip(block.utterances, pq.read_table(parquet).to_pylist(), strict=True):
        after = records.from_row(row, shards.decode_flac(row["audio"]["bytes"]), 16000)
        assert after.id == before.id == row["id"]
        assert [w.text for w in after.words] == [w.text for w in before.words]
        assert np.array_equal(after.codec_codes, before.codec_codes)
        assert np.array_equal(after.taste_codes, before.taste_codes)
        assert after.taste_latents.dtype == np.float16
        assert np.array_equal(after.taste_latents, before.taste_latents)
        assert np.array_equal(
            np.repeat(after.units, after.unit_run_lengths), np.repeat(before.units, before.unit_run_lengths)
        )
        assert np.array_equal(after.speaker_embedding, before.speaker_embedding)
        assert after.labels == before.labels
        assert after.columns["asr_avg_logprob"] == before.columns["asr_avg_logprob"]
        assert np.abs(after.samples - before.samples).max() <= 1 / 32768


def test_an_empty_block_is_a_valid_shard(tmp_path: Path) -> None:
    data = shards.parquet([], 16000, {})
    table = pq.read_table(io.BytesIO(data))
    assert table.num_rows == 0
    assert table.schema.names == [n for n in records.FIELDS if not n.startswith("codec_latent")]


def test_the_shard_carries_its_tokenizers(tmp_path: Path) -> None:
    import json

    parquet, _ = written(made.block(), tmp_path)
    ours = json.loads(pq.read_schema(parquet).metadata[b"antiphon"])
    assert Tokenizer.from_json(ours["tokenizers"]["codec"]) == made.CODEC
    assert ours["rate_hz"] == 16000


def test_an_unknown_column_is_refused_by_name() -> None:
    block = made.block()
    block.utterances[0].columns["mood"] = 1.0
    with pytest.raises(KeyError, match="mood"):
        shards.rows_of(block)


def test_hugging_face_datasets_reads_the_parquet_with_audio(tmp_path: Path) -> None:
    import datasets

    block = made.block()
    parquet, _ = written(block, tmp_path)
    found: Any = datasets.load_dataset(
        "parquet", data_files=str(parquet), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(found.features["audio"], datasets.Audio)
    assert found.features["audio"].sampling_rate == 16000
    row = found.cast_column("audio", datasets.Audio(decode=False))[0]
    assert shards.decode_flac(row["audio"]["bytes"]).shape == block.utterances[0].samples.shape
    assert np.array_equal(row["codec_codes"], block.utterances[0].codec_codes)


def test_webdataset_reads_the_tar(tmp_path: Path) -> None:
    import webdataset

    block = made.block()
    _, tar = written(block, tmp_path)
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode())
    assert [s["__key__"] for s in samples] == [u.id for u in block.utterances]
    assert np.array_equal(samples[0]["codec_codes.npy"], block.utterances[0].codec_codes)
    assert samples[0]["json"]["words"][1]["text"] == "two"
    heard = shards.decode_flac(samples[0]["flac"])
    assert np.abs(heard - block.utterances[0].samples).max() <= 1 / 32768


@pytest.mark.parametrize("variance", [False, True])
def test_latents_are_columns_where_the_card_has_them(tmp_path: Path, variance: bool) -> None:
    """And nowhere else: a corpus without them keeps its bytes."""
    import datasets

    block, plain = made.block(), made.block()
    latents = Latents("vae", (0.0, 1.5), (1.0, 0.25), variance=variance)
    block.tokenizers["codec"] = dataclasses.replace(made.CODEC, latents=latents)
    for u in block.utterances:
        u.codec_latents = np.random.default_rng(1).normal(0, 100, (u.codec_codes.shape[1], 2)).astype(np.float16)  # type: ignore[union-attr]
        u.codec_latent_variance = np.abs(u.codec_latents) if variance else None
    parquet, tar = written(block, tmp_path)
    names = ["codec_latents", *(["codec_latent_variance"] if variance else [])]
    without = pq.read_schema(io.BytesIO(shards.parquet(shards.rows_of(plain), 16000, plain.tokenizers))).names
    assert [name for name in pq.read_schema(parquet).names if name not in without] == names
    for before, row in zip(block.utterances, pq.read_table(parquet).to_pylist(), strict=True):
        after = records.from_row(row, before.samples, 16000)
        for name in names:
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
            assert getattr(after, name).dtype == np.float16
        assert after.codec_latent_variance is None or variance
    with tarfile.open(tar) as archive:
        kept = {name.partition(".")[2] for name in archive.getnames()}
    assert {name for name in kept if "latent" in name} == {f"{name}.npy" for name in [*names, "taste_latents"]}
    found: Any = datasets.load_dataset("parquet", data_files=str(parquet), split="train", cache_dir=str(tmp_path / "c"))
    back = np.asarray(found.remove_columns("audio")[0]["codec_latents"], dtype=np.float16)
    np.testing.assert_array_equal(back, block.utterances[0].codec_latents)


def test_duckdb_reads_words_and_codes(tmp_path: Path) -> None:
    import duckdb

    parquet, _ = written(made.block(), tmp_path)
    rows = duckdb.sql(f"select text, words[2].text, len(codec_codes), len(codec_codes[1]) from '{parquet}'").fetchall()
    assert rows[0] == ("one two three", "two", 4, 100)


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=400))
def test_flac_keeps_sixteen_bits_and_clips(values: list[float]) -> None:
    samples = np.asarray(values, dtype=np.float32)
    back = shards.decode_flac(shards.encode_flac(samples, 16000))
    assert back.shape == samples.shape
    assert np.abs(back - np.clip(samples, -1, 1)).max() <= 1 / 32768


def test_rejections_are_in_time_order_and_readable() -> None:
    block = made.block()
    block.rejections.reverse()
    rows = pq.read_table(io.BytesIO(shards.rejections(block.rejections))).to_pylist()
    assert rows[0]["reason"] == "unsure"
    assert rows[0]["end_s"] - rows[0]["start_s"] == 2.0
