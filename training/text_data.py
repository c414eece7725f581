"""Text without speech: documents from jsonl and Parquet files, as batches like those of a corpus."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import UserError
from training.layouts import Layout
from training.layouts.base import Sequence as Laid
from training.loader import Loader
from training.options import TextSource, TrainOptions
from training.text import Text

CHUNK = 1000
"""Documents of a jsonl file that are read together; of a Parquet file it is a row group."""


@dataclass(frozen=True)
class Chunk:
    """A part of a file: from a byte of a jsonl file on, or a row group of a Parquet file."""

    path: Path
    at: int


class TextLoader(Loader):
    """Batches of packed documents, in the rows of a layout: the text row holds a document's tokens and the others nothing."""

    def __init__(self, source: TextSource, layout: Layout, text: Text, options: TrainOptions) -> None:
        """Raises UserError where the source has no file, or one that is neither jsonl nor Parquet."""
        super().__init__([], layout, text, options)
        self.source = source
        path = Path(source.path).expanduser()
        self.files = (
            sorted(p for p in path.rglob("*") if p.suffix in (".jsonl", ".parquet")) if path.is_dir() else [path]
        )
        if not self.files:
            raise UserError(f"train.text: {path} holds no .jsonl or .parquet file")
        try:
            self._chunks = [chunk for file in self.files for chunk in _chunks(file)]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"train.text: {error}") from None

    @property
    def fingerprint(self) -> str:
        """A hash of the files' names and bytes."""
        found = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as stream:
                found.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return found.hexdigest()

    @property
    def n_shards(self) -> int:
        return len(self._chunks)

    def sequences(self, shards: Sequence[int], split: str) -> Iterator[Laid]:
        if split != "train":
            return
        for i in shards:
            chunk = self._chunks[i]
            for number, document in enumerate(_documents(chunk, self.source.column)):
                ids = self.text.tokenizer.encode(document, add_special_tokens=False)
                if ids:
                    yield self.layout.text_only([ids], f"{chunk.path.name}@{chunk.at}+{number}")

    def nothing(self, split: str) -> UserError:
        return UserError(f"train.text: {self.source.path} holds no text under {self.source.column!r}")


def _chunks(path: Path) -> Iterator[Chunk]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from (Chunk(path, group) for group in range(file.num_row_groups))
        return
    if path.suffix != ".jsonl":
        raise UserError(f"train.text: {path} is neither .jsonl nor .parquet")
    with path.open("rb") as stream:
        at = 0
        for number, line in enumerate(stream):
            if number % CHUNK == 0:
                yield Chunk(path, at)
            at += len(line)


def _documents(chunk: Chunk, column: str) -> Iterator[str]:
    """The texts of a chunk. Raises UserError, naming the file, where one is not there or not text."""
    if chunk.path.suffix == ".parquet":
        with pq.ParquetFile(chunk.path) as file:
            if column not in file.schema_arrow.names:
                raise UserError(f"train.text: {chunk.path} has no column {column!r}")
            # On one thread: see pipeline.shards.read_parquet.
            values = file.read_row_group(chunk.at, columns=[column], use_threads=False)[column].to_pylist()
        yield from (str(value) for value in values if value is not None)
        return
    with chunk.path.open("rb") as stream:
        stream.seek(chunk.at)
        for _, line in zip(range(CHUNK), stream, strict=False):
            if line.strip():
                yield _field(chunk.path, line, column)


def _field(path: Path, line: bytes, column: str) -> str:
    try:
        value: Any = json.loads(line)[column]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"train.text: {path}: no text under {column!r} in {line[:80]!r}: {error}") from None
    if not isinstance(value, str):
        raise UserError(f"train.text: {path}: {column!r} is not a text in {line[:80]!r}")
    return value
