"""What a record is. Imports numpy and pyarrow only, so that anything may import it.

Reading order: `tokenizer` (what makes a token stream), `rejection` (what was turned away, and why), `utterance` (one row,
in memory), `block` (the element of the pipeline), `record` (one row, in Parquet and in a tar), `commit` (one shard's receipt).
"""

from schemas.block import Block, Piece
from schemas.commit import Commit
from schemas.rejection import FAULTS, SILENCE, SOURCE_FAULTS, Reason, Rejection
from schemas.tokenizer import Latents, Tokenizer
from schemas.utterance import Label, Utterance, Word

SCHEMA_VERSION = 1
"""Raised when a column changes its name, type or meaning; readers refuse a corpus of a later version."""

__all__ = [
    "FAULTS",
    "SCHEMA_VERSION",
    "SILENCE",
    "SOURCE_FAULTS",
    "Block",
    "Commit",
    "Label",
    "Latents",
    "Piece",
    "Reason",
    "Rejection",
    "Tokenizer",
    "Utterance",
    "Word",
]
