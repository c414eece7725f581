"""Reading a corpus: only what is committed, checked by hash, as rows with numpy token streams.

A corpus holds Parquet shards (`data/part-*.parquet`), WebDataset tars (`wds/part-*.tar`) or both; both give the same rows.
Parquet is taken where it is there, since single columns can be read from it.
"""

import hashlib
import io
import json
import tarfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import SCHEMA_VERSION, Commit, Tokenizer
from schemas.errors import UserError
from schemas.record import ARRAYS, FIELDS, STREAMS

_MATRICES = ("codec_codes", "codec_latents", "codec_latent_variance", "taste_codes", "taste_latents")


class CorpusError(UserError):
    """A corpus that cannot be read as it is. Names the shard."""


@dataclass(frozen=True)
class Shard:
    """One committed file of rows: its name relative to the corpus, its sha256, its rows of all splits."""

    path: Path
    name: str
    sha256: str
    n_rows: int


class Corpus:
    """The committed rows of a corpus folder.

    Args:
        path: the corpus. damaged: "stop" at a shard or commit record whose bytes are not those committed, or "skip" it with a
            warning.

    Raises CorpusError for a folder without commits, a later schema version, or shards of different tokenizer revisions.
    """

    def __init__(self, path: str | Path, damaged: Literal["stop", "skip"] = "stop") -> None:
        self.path = Path(path)
        self.damaged = damaged
        found = sorted((self.path / "commits").glob("part-*.json"))
        if not found:
            raise CorpusError(f"{self.path}: no commits/part-*.json here, so no corpus: run `antiphon prepare` first")
        self.shards = [shard for f in found if (shard := self._shard(f))]
        self.cards: dict[str, Tokenizer] = {}
        self.rate_hz = 0
        self._sound: dict[str, bool] = {}
        self._read_heads()

    def _shard(self, record: Path) -> Shard | None:
        """The shard of a commit record; None where it holds no rows, or is damaged and to be skipped."""
        try:
            commit = Commit.from_json(record.read_bytes().decode())
        except (OSError, ValueError) as error:
            self._damage(f"{record}: {error}", "its rows are skipped")
            return None
        for folder in ("data/", "wds/"):
            for name, sha256 in commit.files.items():
                if name.startswith(folder):
                    return Shard(self.path / name, name, sha256, commit.rows) if commit.rows else None
        raise CorpusError(f"{self.path}: commit {commit.block} names neither a data/ nor a wds/ file")

    def _damage(self, what: str, skipped: str) -> None:
        if self.damaged == "stop":
            raise CorpusError(
                f"{what}: `antiphon verify {self.path} --forget` takes it out, so that `antiphon prepare` makes it again; "
                "or set train.damaged to skip"
            )
        warnings.warn(f"{what}; {skipped}", stacklevel=4)

    def _read_heads(self) -> None:
        """Take the cards from the first whole shard, and see that all others agree.

        A damaged shard may say anything about itself: the bytes of the shard that gives the cards are checked, and of any other
        that does not agree with it.
        """
        first = ""
        for shard in self.shards:
            if not first and not self._check(shard):
                continue
            try:
                head = _head(shard)
                if head["schema_version"] > SCHEMA_VERSION:
                    raise CorpusError(
                        f"{shard.path}: schema version {head['schema_version']}, and this antiphon reads up to {SCHEMA_VERSION}"
                    )
                cards = {kind: Tokenizer.from_json(card) for kind, card in head["tokenizers"].items()}
                if not first:
                    first, self.cards, self.rate_hz = shard.name, cards, int(head["rate_hz"])
                difference = differing(self.cards, cards)
                if difference:
                    raise CorpusError(
                        f"{self.path}: {first} and {shard.name} differ in tokenizers: {difference}; prepare again"
                    )
            except (CorpusError, KeyError, TypeError, ValueError):
                if self._check(shard):
                    raise

    @property
    def fingerprint(self) -> str:
        """A hash of what is committed: equal exactly when the rows are."""
        return hashlib.sha256("\n".join(f"{s.name} {s.sha256}" for s in self.shards).encode()).hexdigest()

    def rows(
        self,
        split: str | None = None,
        columns: Collection[str] | None = None,
        audio: bool = False,
        shards: Sequence[Shard] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Rows in a stable order: by shard, and in the shard's own order.

        Args:
            split: only rows of this split; None for all. columns: only these; None for all. audio: with the encoded audio,
                `{"bytes", "path"}`. shards: only these of `self.shards`.

        Yields dicts; `units`, `unit_run_lengths` are int64 `[U]`, `codec_codes` `[K, T]`, `taste_codes` `[W, R]`,
        `codec_latents`, `codec_latent_variance` float16 `[T, d]`, `taste_latents` `[W, D]`, or None.
        Raises CorpusError for a damaged shard, as `damaged` says.
        """
        names = [n for n in FIELDS if (columns is None or n in columns) and (audio or n != "audio")]
        unknown = sorted(set(columns or ()) - set(FIELDS))
        if unknown:
            raise ValueError(f"no such columns: {', '.join(unknown)}")
        for shard in self.shards if shards is None else shards:
            if self._check(shard):
                read = _parquet_rows if shard.path.suffix == ".parquet" else _tar_rows
                for row in read(shard.path, [*names, "split"]):
                    if split is None or row["split"] == split:
                        yield {name: row.get(name) for name in names}

    def _check(self, shard: Shard) -> bool:
        """Whether a shard's bytes are those committed; looked at once for each Corpus."""
        if shard.name not in self._sound:
            try:
                with shard.path.open("rb") as stream:
                    wrong = hashlib.file_digest(stream, "sha256").hexdigest() != shard.sha256
                reason = "its bytes are not those that were committed"
            except FileNotFoundError:
                wrong, reason = True, "it is committed but not there"
            except OSError as error:
                wrong, reason = True, f"it does not read ({error.strerror})"
            if wrong:
                self._damage(f"{shard.path}: {reason}", f"its {shard.n_rows} rows are skipped")
            self._sound[shard.name] = not wrong
        return self._sound[shard.name]


def differing(ours: dict[str, Tokenizer], theirs: dict[str, Tokenizer]) -> str:
    """In words, which token streams were made by different tokenizers; empty where none was."""
    parts = []
    for kind in sorted(STREAMS):
        a, b = ours.get(kind), theirs.get(kind)
        if (a and a.revision) != (b and b.revision):
            names = [f"{card.name} revision {card.revision[:12]}" if card else "none" for card in (a, b)]
            parts.append(f"{kind}: {names[0]} against {names[1]}")
    return "; ".join(parts)


def _head(shard: Shard) -> dict[str, Any]:
    """`schema_version`, `rate_hz` and `tokenizers` of a shard. Raises CorpusError where it has none."""
    try:
        if shard.path.suffix == ".parquet":
            return dict(json.loads((pq.read_schema(shard.path).metadata or {})[b"antiphon"]))
        with tarfile.open(shard.path) as archive:
            member = next(m for m in archive if m.name.endswith(".json"))
            return dict(json.load(archive.extractfile(member) or io.BytesIO())["antiphon"])
    except (OSError, KeyError, ValueError, StopIteration, pa.ArrowInvalid, tarfile.TarError) as error:
        raise CorpusError(f"{shard.path}: not a shard of antiphon's: {type(error).__name__}: {error}") from None


def _parquet_rows(path: Path, names: Collection[str]) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        present = [name for name in names if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            # On one thread: see pipeline.shards.read_parquet, whose note holds for every short-lived process.
            table = file.read_row_group(group, columns=present, use_threads=False)
            columns = [_arrays(n, table[n]) if n in ARRAYS else table[n].to_pylist() for n in present]
            for values in zip(*columns, strict=True):
                yield dict(zip(present, values, strict=True))


def _arrays(name: str, column: pa.ChunkedArray) -> list[np.ndarray | None]:
    """Arrow lists, or lists of lists, as int64 (latents as float16), one a row. An empty list of lists is `[0, 0]`.

    From Arrow's buffers as they lie: its own conversion loads pandas, which takes longer than to read many a corpus, and goes row
    by row.
    """
    found: list[np.ndarray | None] = []
    for lists in column.chunks:
        ends, matrix = _numbers(lists.offsets), name in _MATRICES
        inner = _numbers(lists.values.offsets) if matrix else None
        numbers = _numbers(lists.values.values if matrix else lists.values)
        for there, start, end in zip(_valid(lists), ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            if not there:
                found.append(None)
            elif inner is None:
                found.append(numbers[start:end].astype(_dtype(name)))
            else:
                n = end - start
                flat = numbers[inner[start] : inner[end]].astype(_dtype(name))
                found.append(flat.reshape(n, len(flat) // n if n else 0))
    return found


def _numbers(values: pa.Array) -> np.ndarray:
    """An Arrow array of numbers, none of them null."""
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    dtype = {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(values.type), str(values.type))
    start = values.offset * np.dtype(dtype).itemsize
    return np.frombuffer(values.buffers()[1], dtype=dtype, offset=start, count=len(values))


def _valid(values: pa.Array) -> list[bool]:
    """Which of an Arrow array's values are not null."""
    bits = values.buffers()[0]
    if bits is None:
        return [True] * len(values)
    valid = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    return list(valid[values.offset : values.offset + len(values)] == 1)


def _dtype(name: str) -> type[np.generic]:
    """What an array is in memory: every integer int64, which needs no care in a difference; floats as they are stored."""
    return np.float16 if ARRAYS[name] is np.float16 else np.int64


def _tar_rows(path: Path, names: Collection[str]) -> Iterator[dict[str, Any]]:
    members: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, suffix = member.name.partition(".")
            if members and members["key"] != key.encode():
                yield _tar_row(members, names)
                members = {}
            stream = archive.extractfile(member)
            members |= {"key": key.encode(), suffix: stream.read() if stream else b""}
    if members:
        yield _tar_row(members, names)


def _tar_row(members: dict[str, bytes], names: Collection[str]) -> dict[str, Any]:
    fields = json.loads(members["json"])
    key = members["key"].decode()
    row: dict[str, Any] = {}
    for name in names:
        if name == "audio":
            row[name] = {"bytes": members["flac"], "path": f"{key}.flac"}
        elif name in ARRAYS:
            data = members.get(f"{name}.npy")
            row[name] = None if data is None else np.load(io.BytesIO(data), allow_pickle=False).astype(_dtype(name))
        else:
            row[name] = fields[name]
    return row
