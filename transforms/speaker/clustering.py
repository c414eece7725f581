"""Who speaks when within a recording: windows of speech, grouped by how alike their voices are."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transforms.speaker.encoder import FRAME, RATE_HZ, WINDOW


class Turn(NamedTuple):
    """Seconds in which one speaker (numbered from 0) is heard."""

    start_s: float
    end_s: float
    speaker: int


def cluster(embeddings: np.ndarray, threshold: float, least: int = 1) -> np.ndarray:
    """Group `[N, D]` of length 1 by average linkage: two groups join while their mean cosine distance is under `threshold`.

    Groups of fewer than `least` go to the nearest of the others, unless there is no other. Takes 4 N^2 bytes of memory.

    Returns `[N]` numbers from 0 in the order in which the groups first appear.
    """
    if len(embeddings) < 2:
        return np.zeros(len(embeddings), np.int64)
    from scipy.cluster.hierarchy import fcluster, linkage

    found = fcluster(linkage(embeddings, "average", "cosine"), threshold, "distance")
    sizes = np.bincount(found)
    large = np.flatnonzero(sizes >= least)
    if len(large) and len(large) < len(np.unique(found)):
        centres = np.stack([embeddings[found == group].mean(axis=0) for group in large])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        nearest = large[np.argmax(embeddings @ centres.T, axis=1)]
        found = np.where(sizes[found] >= least, found, nearest)
    return in_order(found)


def in_order(groups: np.ndarray) -> np.ndarray:
    """`[N]` groups under any numbers -> the same groups numbered from 0 as they first appear."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[inverse]


def majority(speakers: Sequence[int] | np.ndarray) -> tuple[int, float]:
    """The speaker of most windows and his share of them; of equals, the one numbered lower."""
    counts = np.bincount(speakers)
    return int(counts.argmax()), float(counts.max() / counts.sum())


def spoken(first: Sequence[int], speech: np.ndarray, hop_s: float, share: float = 0.5) -> np.ndarray:
    """bool `[W]`: which windows hold speech in at least `share` of their 1.6 s; all of them where none does.

    Args:
        first: `[W]` mel frames that the windows begin at. speech: bool `[T]`, one every `hop_s` seconds.
    """
    total = np.concatenate([[0], np.cumsum(speech)])
    edges = np.array(first)[:, None] * (FRAME / RATE_HZ) + np.array([0, WINDOW * FRAME / RATE_HZ])
    at = np.minimum(np.round(edges / hop_s).astype(int), len(speech))
    held = (total[at[:, 1]] - total[at[:, 0]]) / max(1, round(WINDOW * FRAME / RATE_HZ / hop_s))
    kept = held >= share
    return kept if kept.any() else np.ones(len(kept), bool)


def turns(first: Sequence[int], speakers: np.ndarray, speech: np.ndarray, hop_s: float) -> list[Turn]:
    """Every step of speech goes to the window whose middle is nearest; neighbours of one speaker are one turn.

    Args:
        first, speakers: `[W]` of the windows that were grouped. speech: bool `[T]`, one every `hop_s` seconds.
    """
    middles = (np.array(first) + WINDOW / 2) * (FRAME / RATE_HZ)
    times = (np.arange(len(speech)) + 0.5) * hop_s
    at = np.clip(np.searchsorted((middles[1:] + middles[:-1]) / 2, times), 0, len(middles) - 1)
    track = np.where(speech, np.asarray(speakers)[at], -1)
    edges = [0, *(np.flatnonzero(np.diff(track)) + 1).tolist(), len(track)]
    return [Turn(a * hop_s, b * hop_s, int(track[a])) for a, b in itertools.pairwise(edges) if b > a and track[a] >= 0]
