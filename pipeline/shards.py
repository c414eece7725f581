"""Blocks as bytes: a Parquet shard, a WebDataset tar, a Parquet file of rejections. The same rows give the same bytes."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import SCHEMA_VERSION, Block, Rejection, Tokenizer, Utterance
from schemas import record as records

ROW_GROUP = 100
"""Rows a row group. Hugging Face's viewer and column readers load whole groups; its own audio sets use about 100."""

_REJECTION = pa.schema(
    [
        ("source", pa.string()),
        ("channel", pa.int16()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


def encode_flac(samples: np.ndarray, rate_hz: int) -> bytes:
    """Samples `[n]` in -1..1 as 16-bit FLAC; louder ones are clipped."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, np.clip(samples, -1.0, 1.0), rate_hz, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """The inverse of `encode_flac`, to within 16 bits: float32 `[n]`."""
    import soundfile

    samples: np.ndarray = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    return samples


def rows_of(block: Block) -> list[dict[str, Any]]:
    """The rows of a Block in its order, audio encoded and text normalized."""
    from transforms.normalize import normalize

    def row(utterance: Utterance) -> dict[str, Any]:
        flac = encode_flac(utterance.samples, utterance.rate_hz)
        return records.to_row(utterance, flac, normalize(utterance.text, utterance.language))

    return [row(utterance) for utterance in block.utterances]


def parquet(rows: Sequence[Mapping[str, Any]], rate_hz: int, tokenizers: Mapping[str, Tokenizer]) -> bytes:
    """A Parquet file with the schema of `schemas.record`, valid (with no row group) for no rows too."""
    table = pa.Table.from_pylist(list(rows), schema=records.schema(rate_hz, tokenizers, SCHEMA_VERSION))
    sink = io.BytesIO()
    # The audio is FLAC already; zstd still halves the tokens and words.
    pq.write_table(table, sink, row_group_size=ROW_GROUP, compression="zstd")
    return sink.getvalue()


def read_parquet(data: bytes) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a row group at a time.

    On one thread: with Arrow's thread pool a process that has just read a file now and then aborts on its way out
    ("terminate called without an active exception", pyarrow 25.0.1, one run in eight of `antiphon inspect`).
    """
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, use_threads=False).to_pylist()


def tar(rows: Sequence[Mapping[str, Any]], rate_hz: int, tokenizers: Mapping[str, Tokenizer]) -> bytes:
    """A WebDataset shard: for each row `<id>.flac`, `<id>.json`, and one `<id>.<column>.npy` an array."""
    head = {"schema_version": SCHEMA_VERSION, "rate_hz": rate_hz}
    cards = {kind: tokenizers[kind].as_json() for kind in sorted(tokenizers)}
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, data: bytes) -> None:
            # A fresh TarInfo has time 0 and no owner, so that nothing of the machine gets into the bytes.
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        for row in rows:
            add(f"{row['id']}.flac", row["audio"]["bytes"])
            fields = {name: value for name, value in row.items() if name != "audio" and name not in records.ARRAYS}
            fields["antiphon"] = head | {"tokenizers": cards}
            add(f"{row['id']}.json", json.dumps(fields, sort_keys=True, ensure_ascii=False).encode())
            for name, dtype in records.ARRAYS.items():
                if row[name] is not None:
                    array = io.BytesIO()
                    np.save(array, np.asarray(row[name], dtype=dtype), allow_pickle=False)
                    add(f"{row['id']}.{name}.npy", array.getvalue())
    return sink.getvalue()


def rejections(found: Sequence[Rejection]) -> bytes:
    """A Parquet file of what was turned away, in time order."""
    ordered = sorted(found, key=lambda r: (r.source, r.channel, r.start_s, r.end_s, r.stage, r.reason, r.detail))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([r.row() for r in ordered], schema=_REJECTION), sink, compression="zstd")
    return sink.getvalue()
