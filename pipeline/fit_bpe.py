"""`antiphon fit bpe`: merge the units of a corpus, and say how much shorter they get."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field

from pipeline import files
from pipeline.inspect import read_rows
from pipeline.store import Store
from schemas import Tokenizer
from schemas.errors import UserError
from transforms.options import Options


class FitBpeOptions(Options):
    """How to merge units."""

    path: Path
    """The JSON file to write."""
    data: str
    """The corpus in one phrase; printed only."""
    size: int = Field(4000, ge=1)
    """Tokens, the units among them."""
    inside_words: bool = False
    """Never merge across the end of a word (by the words' times): for layouts that interleave words and units."""
    deduplicate: bool = True
    """Merge units without repeats; false: one unit a frame, so that tokens say how long they last. As the layout has it."""
    min_count: int = Field(2, ge=1)
    """How often a pair must occur to be merged."""


def fit_bpe(corpus: str, options: FitBpeOptions) -> str:
    """Fit on the `train` rows, write the vocabulary, and return a line that says how much shorter which rows get.

    Measured on the `heldout` rows where there are any. Raises UserError for a corpus without units, or too small a vocabulary.
    """
    from training import bpe

    card = _card(corpus)
    try:
        made = bpe.fit(
            _rows(corpus, card, "train"),
            card.sizes[0],
            options.size,
            inside_words=options.inside_words,
            deduplicate=options.deduplicate,
            min_count=options.min_count,
            revision=card.revision,
        )
    except ValueError as error:
        raise UserError(f"{corpus}: {error}") from error
    made.save(options.path)
    for split in ("heldout", "train"):
        frames = units = tokens = 0
        for row_units, run_lengths, ends in _rows(corpus, card, split):
            coded = made.encode(row_units, run_lengths, ends if options.inside_words else ())
            frames, units = frames + int(run_lengths.sum()), units + len(row_units)
            tokens += len(coded.ids)
        if tokens:
            break
    else:
        raise UserError(f"{corpus}: no units in it")
    seconds = frames / card.rate_hz
    return (
        f"{made.size} tokens over {card.sizes[0]} units of {card.name}, {options.data}. On the {split} rows: {frames} frames > "
        f"{units} units > {tokens} tokens, {units / tokens:.2f} times shorter than the units and {frames / tokens:.2f} times than "
        f"the frames; {tokens / seconds:.1f} tokens/s of {np.log2(made.size):.1f} bits. Written to {options.path}"
    )


def _card(corpus: str) -> Tokenizer:
    """The card of the corpus's units, from its first shard. Raises UserError where it has none."""
    store = Store(corpus)
    for name, commit in store.commits().items():
        if f"data/{name}.parquet" in commit.files:
            import pyarrow as pa

            with pq.ParquetFile(pa.BufferReader(files.read(store.path("data", f"{name}.parquet")))) as file:
                cards = json.loads(file.schema_arrow.metadata[b"antiphon"])["tokenizers"]
            if "units" in cards:
                return Tokenizer.from_json(cards["units"])
    raise UserError(f"{corpus}: no units in it; run `antiphon prepare` with the units stage on")


def _rows(corpus: str, card: Tokenizer, split: str) -> Iterator[tuple[np.ndarray, np.ndarray, list[int]]]:
    from training.layouts.spans import word_borders

    for row in read_rows(corpus):
        if row["split"] == split and row["units"] is not None:
            units, run_lengths = np.asarray(row["units"]), np.asarray(row["unit_run_lengths"])
            words: list[dict[str, Any]] = row["words"] or []
            starts_s, ends_s = (np.array([w[at] for w in words], dtype=np.float64) for at in ("start_s", "end_s"))
            yield units, run_lengths, word_borders(starts_s, ends_s, run_lengths, card.rate_hz).tolist()
