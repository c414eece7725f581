"""A uniform sample of all frames of a corpus, the same whatever the order, the shards and the workers."""

from dataclasses import dataclass, field

import numpy as np

HEARD = 20
"""Utterances that are kept whole, so that figures of sequences can be had of the sample."""


@dataclass(slots=True)
class Reservoir:
    """Bottom-k by hash: every frame draws a number from the seed and its utterance's id, and the k smallest of all stay.

    A union of two reservoirs is the reservoir of the union, so one shard after another, or many workers' shards in any order,
    come to the same. Sampling by the smallest hashes is uniform without replacement (Cohen and Kaplan, "Summarizing data using
    bottom-k sketches", PODC 2007).

    Attributes:
        size: k. seed: of the numbers. below: keep only frames whose number is below this (see `expecting`).
        n_utterances, n_frames: all that were added.
        keys: uint64 `[n]`, ids: uint64 `[n]` of the utterances, frames: float32 `[n, d]`.
        heard: utterance id -> (its own number, its frames `[T, d]`), the 20 smallest.
    """

    size: int
    seed: int
    below: int = 1 << 64
    n_utterances: int = 0
    n_frames: int = 0
    keys: list[np.ndarray] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    heard: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def expecting(cls, size: int, seed: int, n_frames: int) -> "Reservoir":
        """One that leaves out at once what cannot be among the smallest of `n_frames`, so that shards hand on little.

        The bound lets 1.5 `size` + 1,000 frames through on average, hence at least `size` of them for certain in practice (ten
        standard deviations or more), and the same frames stay as without it.
        """
        share = min(1.0, (1.5 * size + 1000) / max(1, n_frames))
        return cls(size, seed, int(share * (1 << 64)))

    def add(self, utterance_id: str, features: np.ndarray) -> None:
        """All frames of an utterance, float32 `[T, d]`; the id is hexadecimal."""
        number = int(utterance_id, 16)
        random = np.random.default_rng([self.seed, number])
        own = int(random.integers(0, 1 << 64, dtype=np.uint64))
        keys = random.integers(0, 1 << 64, size=len(features), dtype=np.uint64)
        kept = keys <= np.uint64(self.below - 1)
        self._put(keys[kept], np.full(int(kept.sum()), number, dtype=np.uint64), features[kept])
        self.n_utterances, self.n_frames = self.n_utterances + 1, self.n_frames + len(features)
        self.heard[number] = (own, features)
        self._trim_heard()

    def merge(self, other: "Reservoir") -> None:
        """Take in another reservoir of the same size and seed."""
        for keys, ids, frames in zip(other.keys, other.ids, other.frames, strict=True):
            self._put(keys, ids, frames)
        self.n_utterances, self.n_frames = self.n_utterances + other.n_utterances, self.n_frames + other.n_frames
        self.heard |= other.heard
        self._trim_heard()

    def sample(self) -> np.ndarray:
        """float32 `[n, d]`, n at most `size`, in the order of their numbers. Raises ValueError where nothing was added."""
        if not self.frames:
            raise ValueError("no utterances to fit units on")
        self.compact()
        return self.frames[0]

    def compact(self) -> None:
        """Throw away what is not among the smallest."""
        if not self.frames:
            return
        keys, ids, frames = np.concatenate(self.keys), np.concatenate(self.ids), np.concatenate(self.frames)
        # Equal numbers (one corpus in a thousand of 10^8 frames) go by utterance, and within it by time: the sort is stable.
        kept = np.lexsort((ids, keys))[: self.size]
        self.keys, self.ids, self.frames = [keys[kept]], [ids[kept]], [frames[kept]]

    def _put(self, keys: np.ndarray, ids: np.ndarray, frames: np.ndarray) -> None:
        self.keys.append(keys)
        self.ids.append(ids)
        self.frames.append(frames)
        if sum(map(len, self.keys)) > 2 * self.size:
            self.compact()

    def _trim_heard(self) -> None:
        if len(self.heard) > HEARD:
            kept = sorted(self.heard, key=lambda number: (self.heard[number][0], number))[:HEARD]
            self.heard = {number: self.heard[number] for number in kept}
