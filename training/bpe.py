"""Byte-pair encoding of units: a shorter sequence of units with their lasting, and back, without loss.

Units of a few hundred clusters at 25 to 50 Hz are phones cut small; the pairs that follow each other often become tokens of
their own (acoustic BPE: Shen and others, arXiv 2310.14580; for recognition: Chang and others, arXiv 2309.15800). It is done where
text is tokenized too, when a row is read for training: nothing but the row's own columns is needed, and one corpus serves
every vocabulary. Tokens below the number of units are the units themselves.

A vocabulary merges units without repeats, whose tokens do not say how long they last, or one unit a frame, whose tokens do.
"""

import hashlib
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
        deduplicated: units without repeats are merged; false: one unit a frame.
        revision: of the unit tokenizer whose units it was fitted on.
        frames_per_token: mean of what it was fitted on.
        spelled: units of each token. sha256: of its file.
    """

    def __init__(
        self,
        tokenizer: Any,
        n_units: int,
        inside_words: bool,
        revision: str,
        deduplicated: bool = True,
        frames_per_token: float = 1.0,
    ) -> None:
        self._tokenizer = tokenizer
        self.n_units, self.inside_words, self.revision = n_units, inside_words, revision
        self.deduplicated, self.frames_per_token = deduplicated, frames_per_token
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        self.spelled = [np.array([ord(c) - _FIRST for c in token], dtype=np.int64) for token, _ in vocabulary]
        self._lengths = np.array([len(spelled) for spelled in self.spelled], dtype=np.int64)
        # The file's own text, once there is one: another version of the tokenizers library may write it otherwise.
        self._text = ""

    @property
    def size(self) -> int:
        return len(self.spelled)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._written().encode()).hexdigest()

    def encode(self, units: np.ndarray, run_lengths: np.ndarray, ends: Sequence[int] = ()) -> Tokens:
        """Units without repeats and their run lengths, `[U]` each -> tokens.

        Args:
            ends: indices into `units` before which a token may not reach, ascending (see `spans.word_borders`).

        Raises ValueError for a unit that the vocabulary does not have, or as many lengths as there are no units.
        """
        _check(units, run_lengths, self.n_units)
        ids: list[int] = []
        for piece in _pieces(units, run_lengths, ends, self.deduplicated):
            ids += self._tokenizer.encode(piece, add_special_tokens=False).ids
        found = np.array(ids, dtype=np.int64)
        return Tokens(found, self._durations(found, run_lengths), np.asarray(run_lengths, dtype=np.int64))

    def decode(self, tokens: Tokens) -> Runs:
        """The exact inverse of `encode`. Raises ValueError where the durations are not those of the run lengths inside."""
        units, run_lengths = self.runs(tokens.ids)
        if self.deduplicated:
            run_lengths = tokens.run_lengths
        if len(units) != len(tokens.run_lengths):
            raise ValueError(f"tokens of {len(units)} units, and {len(tokens.run_lengths)} run lengths")
        if (self._durations(tokens.ids, run_lengths) != tokens.durations).any():
            raise ValueError("the durations of the tokens are not the sums of the run lengths")
        return Runs(units, run_lengths)

    def runs(self, ids: np.ndarray) -> Runs:
        """What tokens `[N]` say by themselves: where they are of frames, units without repeats and how long each lasts; else the
        units that they stand for, each of one frame, since how long they last is not in them.
        """
        units = self.units(ids)
        if self.deduplicated:
            return Runs(units, np.ones(len(units), dtype=np.int64))
        starts = np.flatnonzero(np.diff(units, prepend=-1) != 0)
        return Runs(units[starts], np.diff(starts, append=len(units)))

    def _durations(self, ids: np.ndarray, run_lengths: np.ndarray) -> np.ndarray:
        """Int64 `[N]`: frames of each token, given those of the units `[U]` inside."""
        lengths = self._lengths[ids]
        if not self.deduplicated or not len(ids):
            return lengths
        return np.add.reduceat(np.asarray(run_lengths, dtype=np.int64), np.cumsum(lengths) - lengths)

    def units(self, ids: np.ndarray) -> np.ndarray:
        """int64 `[U]`: the units that tokens `[N]` stand for, one a frame where they are of frames. Raises ValueError for a token
        that there is not."""
        if len(ids) and not 0 <= np.min(ids) <= np.max(ids) < self.size:
            raise ValueError(f"tokens from {np.min(ids)} to {np.max(ids)}; the vocabulary has {self.size}")
        return np.concatenate([self.spelled[i] for i in ids]) if len(ids) else np.zeros(0, dtype=np.int64)

    def share_out(self, ids: np.ndarray, durations: np.ndarray) -> Runs:
        """Units of tokens whose durations alone are known, as a model says them: frames are divided evenly, the first units of
        a token getting what is left over; a token shorter than its units gives each one frame, and so lasts longer.

        Tokens of frames say how long they last: see `runs`.
        """
        lengths = self._lengths[ids]
        shares = []
        for count, duration in zip(lengths, durations, strict=True):
            base, more = divmod(int(max(duration, count)), int(count))
            shares.append(np.full(count, base) + (np.arange(count) < more))
        return Runs(self.units(ids), np.concatenate(shares) if shares else np.zeros(0, dtype=np.int64))

    def save(self, path: Path) -> None:
        """One JSON file; its `tokenizer` is what `tokenizers.Tokenizer.from_str` reads."""
        path.write_bytes(self._written().encode())

    def _written(self) -> str:
        if not self._text:
            card = {
                "kind": _KIND,
                "n_units": self.n_units,
                "inside_words": self.inside_words,
                "deduplicated": self.deduplicated,
                "revision": self.revision,
                "frames_per_token": self.frames_per_token,
            }
            made = card | {"tokenizer": json.loads(self._tokenizer.to_str())}
            self._text = json.dumps(made, ensure_ascii=False, sort_keys=True) + "\n"
        return self._text

    @classmethod
    def load(cls, path: Path) -> "UnitBPE":
        """Raises UserError for a file that `save` did not write."""
        from tokenizers import Tokenizer

        try:
            text = path.read_bytes().decode()
            made = json.loads(text)
            if made["kind"] != _KIND:
                raise ValueError(f"its kind is {made['kind']!r}")
            tokenizer = Tokenizer.from_str(json.dumps(made["tokenizer"]))
            inside, deduplicated = bool(made["inside_words"]), bool(made["deduplicated"])
            frames = float(made["frames_per_token"])
            found = cls(tokenizer, int(made["n_units"]), inside, made["revision"], deduplicated, frames)
            found._text = text
            return found
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a file that `antiphon fit bpe` wrote ({error!r})") from None


def fit(
    sequences: Iterable[tuple[np.ndarray, np.ndarray, Sequence[int]]],
    n_units: int,
    size: int,
    *,
    inside_words: bool,
    deduplicate: bool = True,
    min_count: int = 2,
    revision: str = "",
) -> UnitBPE:
    """Merge the pairs that follow each other most often until there are `size` tokens, or none comes `min_count` times.

    The same sequences in the same order give the same vocabulary.

    Args:
        sequences: units without repeats and their run lengths, `[U]` each, and the ends of words in them (as for
            `UnitBPE.encode`), which count where `inside_words`.
        deduplicate: merge the units as they are; false: one a frame.

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
    pieces, n_frames = [], 0
    for units, run_lengths, ends in sequences:
        pieces += _pieces(units, run_lengths, ends if inside_words else (), deduplicate)
        n_frames += int(np.sum(run_lengths))
    tokenizer.train_from_iterator(pieces, trainer)
    n_tokens = sum(len(tokenizer.encode(piece, add_special_tokens=False).ids) for piece in pieces)
    made = UnitBPE(tokenizer, n_units, inside_words, revision, deduplicate, n_frames / max(1, n_tokens))
    # Held to, not hoped for: a token below n_units is its own unit.
    assert [s.tolist() for s in made.spelled[:n_units]] == [[unit] for unit in range(n_units)]
    return made


def _pieces(units: np.ndarray, run_lengths: np.ndarray, ends: Sequence[int], deduplicated: bool) -> list[str]:
    """The characters of the units, or of the frames, cut before each of `ends`; no empty pieces."""
    bounds = [0, *ends, len(units)]
    text = [
        chr(_FIRST + int(unit)) * (1 if deduplicated else int(n)) for unit, n in zip(units, run_lengths, strict=True)
    ]
    return ["".join(text[a:b]) for a, b in itertools.pairwise(bounds) if b > a]


def _check(units: np.ndarray, run_lengths: np.ndarray, n_units: int) -> None:
    if len(units) != len(run_lengths):
        raise ValueError(f"{len(units)} units and {len(run_lengths)} run lengths")
    if len(units) and not 0 <= np.min(units) <= np.max(units) < n_units:
        raise ValueError(f"units from {np.min(units)} to {np.max(units)}; the vocabulary merges {n_units}")
