"""Byte-pair encoding of units: a shorter sequence of units with their lasting, and back, without loss.

Units of a few hundred clusters at 25 to 50 Hz are phones cut small; the pairs that follow each other often become tokens of
their own (acoustic BPE: Shen and others, arXiv 2310.14580; for recognition: Chang and others, arXiv 2309.15800). It is done where
text is tokenized too, when a row is read for training: nothing but the row's own columns is needed, and one corpus serves
every vocabulary. Tokens below the number of units are the units themselves.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from schemas.errors import UserError

_FIRST = 0x4E00
"""Unit u stands as this character plus u in the strings that the tokenizers library merges, as in codec-bpe."""
MAX_UNITS = 0xA000 - _FIRST
"""20,992: the block of CJK ideographs, none of which a tokenizer would split or normalise."""
_KIND = "antiphon unit bpe"


class Runs(NamedTuple):
    """De-duplicated units and how many frames each lasts: int `[U]` each, as the columns `units` and `unit_run_lengths`."""

    units: np.ndarray
    run_lengths: np.ndarray


class Tokens(NamedTuple):
    """Merged units.

    Attributes:
        ids: int64 `[N]`. durations: int64 `[N]`, frames that each token lasts.
        run_lengths: int64 `[U]`, those of the units inside, which the sums of `durations` have lost.
    """

    ids: np.ndarray
    durations: np.ndarray
    run_lengths: np.ndarray


class UnitBPE:
    """A fitted vocabulary.

    Attributes:
        n_units: units it merges. size: tokens, the units among them.
        inside_words: merges were never fitted across the ends of words, and `encode` should be told where those are.
        revision: of the unit tokenizer whose units it was fitted on.
        spelled: units of each token.
    """

    def __init__(self, tokenizer: Any, n_units: int, inside_words: bool, revision: str) -> None:
        self._tokenizer = tokenizer
        self.n_units, self.inside_words, self.revision = n_units, inside_words, revision
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        self.spelled = [np.array([ord(c) - _FIRST for c in token], dtype=np.int64) for token, _ in vocabulary]
        self._lengths = np.array([len(spelled) for spelled in self.spelled], dtype=np.int64)

    @property
    def size(self) -> int:
        return len(self.spelled)

    def encode(self, units: np.ndarray, run_lengths: np.ndarray, ends: Sequence[int] = ()) -> Tokens:
        """Units and their run lengths, `[U]` each -> tokens.

        Args:
            ends: indices into `units` before which a token may not reach (see `word_ends`).

        Raises ValueError for a unit that the vocabulary does not have, or as many lengths as there are no units.
        """
        _check(units, run_lengths, self.n_units)
        ids: list[int] = []
        for piece in _pieces(units, ends):
            ids += self._tokenizer.encode(piece, add_special_tokens=False).ids
        found = np.array(ids, dtype=np.int64)
        lengths = self._lengths[found]
        starts = np.cumsum(lengths) - lengths
        durations = np.add.reduceat(run_lengths, starts) if len(found) else np.zeros(0)
        return Tokens(found, durations.astype(np.int64), np.asarray(run_lengths, dtype=np.int64))

    def decode(self, tokens: Tokens) -> Runs:
        """The exact inverse of `encode`. Raises ValueError where the durations are not those of the run lengths inside."""
        units, lengths = self.units(tokens.ids), self._lengths[tokens.ids]
        starts = np.cumsum(lengths) - lengths
        if len(units) != len(tokens.run_lengths):
            raise ValueError(f"tokens of {len(units)} units, and {len(tokens.run_lengths)} run lengths")
        if len(units) and (np.add.reduceat(tokens.run_lengths, starts) != tokens.durations).any():
            raise ValueError("the durations of the tokens are not the sums of the run lengths")
        return Runs(units, tokens.run_lengths)

    def units(self, ids: np.ndarray) -> np.ndarray:
        """int64 `[U]`: the units that tokens `[N]` stand for. Raises ValueError for a token that there is not."""
        if len(ids) and not 0 <= np.min(ids) <= np.max(ids) < self.size:
            raise ValueError(f"tokens from {np.min(ids)} to {np.max(ids)}; the vocabulary has {self.size}")
        return np.concatenate([self.spelled[i] for i in ids]) if len(ids) else np.zeros(0, dtype=np.int64)

    def share_out(self, ids: np.ndarray, durations: np.ndarray) -> Runs:
        """Units of tokens whose durations alone are known, as a model says them: frames are divided evenly, the first units of
        a token getting what is left over; a token shorter than its units gives each one frame, and so lasts longer."""
        lengths = self._lengths[ids]
        shares = []
        for count, duration in zip(lengths, durations, strict=True):
            base, more = divmod(int(max(duration, count)), int(count))
            shares.append(np.full(count, base) + (np.arange(count) < more))
        return Runs(self.units(ids), np.concatenate(shares) if shares else np.zeros(0, dtype=np.int64))

    def save(self, path: Path) -> None:
        """One JSON file; its `tokenizer` is what `tokenizers.Tokenizer.from_str` reads."""
        card = {"kind": _KIND, "n_units": self.n_units, "inside_words": self.inside_words, "revision": self.revision}
        made = card | {"tokenizer": json.loads(self._tokenizer.to_str())}
        path.write_text(json.dumps(made, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "UnitBPE":
        """Raises UserError for a file that `save` did not write."""
        from tokenizers import Tokenizer

        try:
            made = json.loads(path.read_text(encoding="utf-8"))
            if made["kind"] != _KIND:
                raise ValueError(f"its kind is {made['kind']!r}")
            tokenizer = Tokenizer.from_str(json.dumps(made["tokenizer"]))
            return cls(tokenizer, int(made["n_units"]), bool(made["inside_words"]), made["revision"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a file that `antiphon fit bpe` wrote ({error!r})") from None


def fit(
    sequences: Iterable[tuple[np.ndarray, Sequence[int]]],
    n_units: int,
    size: int,
    *,
    inside_words: bool,
    min_count: int = 2,
    revision: str = "",
) -> UnitBPE:
    """Merge the pairs that follow each other most often until there are `size` tokens, or none comes `min_count` times.

    The same sequences in the same order give the same vocabulary.

    Args:
        sequences: de-duplicated units `[U]`, and the ends of words in them (see `word_ends`), which count where `inside_words`.

    Raises ValueError: more units than characters to write them with, or fewer tokens wanted than there are units.
    """
    from tokenizers import Tokenizer, models, trainers

    if not 0 < n_units <= MAX_UNITS:
        raise ValueError(f"{n_units} units; 1 to {MAX_UNITS} can be merged")
    if size < n_units:
        raise ValueError(f"{size} tokens are fewer than the {n_units} units")
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_count,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=[chr(_FIRST + unit) for unit in range(n_units)],
    )
    pieces = (piece for units, ends in sequences for piece in _pieces(units, ends if inside_words else ()))
    tokenizer.train_from_iterator(pieces, trainer)
    made = UnitBPE(tokenizer, n_units, inside_words, revision)
    # Held to, not hoped for: a token below n_units is its own unit.
    assert [s.tolist() for s in made.spelled[:n_units]] == [[unit] for unit in range(n_units)]
    return made


def word_ends(run_lengths: np.ndarray, end_s: Sequence[float], rate_hz: float) -> list[int]:
    """Indices into the units before which words end, ascending: the first run that has its middle after the end of the word.

    Args:
        run_lengths: frames that each unit lasts, `[U]`. end_s: seconds at which words end. rate_hz: frames a second.
    """
    middles = (np.cumsum(run_lengths) - np.asarray(run_lengths) / 2) / rate_hz
    found = np.searchsorted(middles, np.asarray(sorted(end_s), dtype=np.float64), side="left")
    return [int(i) for i in np.unique(found) if 0 < i < len(middles)]


def _pieces(units: np.ndarray, ends: Sequence[int]) -> list[str]:
    """The characters of the units, cut before each of `ends`; no empty pieces."""
    bounds = [0, *ends, len(units)]
    text = "".join(chr(_FIRST + int(unit)) for unit in units)
    return [text[a:b] for a, b in itertools.pairwise(bounds) if b > a]


def _check(units: np.ndarray, run_lengths: np.ndarray, n_units: int) -> None:
    if len(units) != len(run_lengths):
        raise ValueError(f"{len(units)} units and {len(run_lengths)} run lengths")
    if len(units) and not 0 <= np.min(units) <= np.max(units) < n_units:
        raise ValueError(f"units from {np.min(units)} to {np.max(units)}; the vocabulary merges {n_units}")
