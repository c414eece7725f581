"""What token streams cost and how they use their codebooks. Pure functions on arrays."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class StreamReport:
    """Of one tokenizer over all clips. Lists have one entry a codebook.

    Attributes:
        frames_per_s: token frames a second. distinct_frames_per_s: the same, a frame equal to the one before it left out.
        raw_bits_per_s: frames a second times the sum of log2 of the codebook sizes.
        unigram_bits_per_s: with the entropy of each codebook's own frequencies in place of log2 of its size. They are
            counted on the same tokens, so it is too low where an entry was seen a few times only.
        coded_bits_per_s: what `adaptive_bits` takes, which has to learn the frequencies as it goes: no bound, but a rate
            that a coder really reaches on these clips.
        deduplicated_bits_per_s: of a single codebook without its repeats, log2 of its size a unit plus the entropy of the
            run lengths; None where there are several codebooks.
        used_shares: share of its entries that occur. perplexities: 2 to the power of the entropy.
        repeat_shares: share of the frames whose entry is that of the frame before. mean_runs: frames that an entry lasts.
    """

    frames: int
    seconds: float
    sizes: tuple[int, ...]
    frames_per_s: float
    distinct_frames_per_s: float
    raw_bits_per_s: float
    unigram_bits_per_s: float
    coded_bits_per_s: float
    deduplicated_bits_per_s: float | None
    used_shares: list[float]
    perplexities: list[float]
    repeat_shares: list[float]
    mean_runs: list[float]


def describe(clips: Sequence[np.ndarray], sizes: Sequence[int], seconds: float) -> StreamReport:
    """The report of integer codes `[K, T]`, one array a clip, of codebooks of `sizes`.

    Args:
        seconds: how long the clips last together.

    Raises:
        ValueError: a code outside its codebook.
    """
    for k, size in enumerate(sizes):
        outside = [
            int(c) for clip in clips if clip.shape[1] for c in (clip[k].min(), clip[k].max()) if not 0 <= c < size
        ]
        if outside:
            raise ValueError(f"codebook {k} holds {outside[0]}, and its size is {size}")
    frames = sum(clip.shape[1] for clip in clips)
    entropies = [entropy_bits(np.concatenate([clip[k] for clip in clips])) for k in range(len(sizes))]
    coded = sum(adaptive_bits([clip[k] for clip in clips], size) for k, size in enumerate(sizes))
    distinct = sum(distinct_frames(clip) for clip in clips)
    runs = [sum(distinct_frames(clip[k : k + 1]) for clip in clips) for k in range(len(sizes))]
    deduplicated = None
    if len(sizes) == 1:
        lengths = np.concatenate([run_lengths(clip[0]) for clip in clips])
        deduplicated = distinct * (math.log2(sizes[0]) + entropy_bits(lengths)) / seconds
    return StreamReport(
        frames=frames,
        seconds=seconds,
        sizes=tuple(sizes),
        frames_per_s=frames / seconds,
        distinct_frames_per_s=distinct / seconds,
        raw_bits_per_s=frames * sum(map(math.log2, sizes)) / seconds,
        unigram_bits_per_s=frames * sum(entropies) / seconds,
        coded_bits_per_s=coded / seconds,
        deduplicated_bits_per_s=deduplicated,
        used_shares=[
            len(np.unique(np.concatenate([clip[k] for clip in clips]))) / size for k, size in enumerate(sizes)
        ],
        perplexities=[2.0**bits for bits in entropies],
        repeat_shares=[(frames - n) / frames if frames else 0.0 for n in runs],
        mean_runs=[frames / n if n else 0.0 for n in runs],
    )


def entropy_bits(symbols: np.ndarray) -> float:
    """Shannon's entropy of the frequencies of integers `[N]`, in bits a symbol; 0 for none."""
    if not len(symbols):
        return 0.0
    _, counts = np.unique(symbols, return_counts=True)
    shares = counts / counts.sum()
    return abs(float(-(shares * np.log2(shares)).sum()))


def adaptive_bits(clips: Sequence[np.ndarray], size: int) -> float:
    """Bits that an adaptive arithmetic coder takes for integers `[T]` in 0..size-1, one clip after another.

    It predicts from the symbol before: Witten and Bell's method C (1991, "The zero-frequency problem"), with
    probability n(context, symbol) / (n(context) + d(context)), d being how many different symbols have followed; the rest
    of the probability goes to the frequencies without context, estimated as Krichevsky and Trofimov (1981) do, by adding half
    to each count. All counts start at nothing and are updated after each symbol, as a decoder can. An arithmetic coder
    comes within two bits of -log2 of the product of these probabilities, which is what is returned.
    """
    followers: dict[int, Counter[int]] = defaultdict(Counter)
    totals: Counter[int] = Counter()
    alone: Counter[int] = Counter()
    seen, bits = 0, 0.0
    for clip in clips:
        context = -1
        for symbol in clip.tolist():
            probability = (alone[symbol] + 0.5) / (seen + 0.5 * size)
            after = followers[context]
            if after:
                distinct = len(after)
                probability = (after[symbol] + distinct * probability) / (totals[context] + distinct)
            bits -= math.log2(probability)
            after[symbol] += 1
            totals[context] += 1
            alone[symbol] += 1
            seen += 1
            context = symbol
    return bits


def distinct_frames(codes: np.ndarray) -> int:
    """Frames of `[K, T]` that differ, in any codebook, from the one before; the first one counts."""
    if codes.shape[1] == 0:
        return 0
    return 1 + int((np.diff(codes.astype(np.int64), axis=1) != 0).any(axis=0).sum())


def run_lengths(symbols: np.ndarray) -> np.ndarray:
    """How long each stretch of equal integers of `[T]` is, in order."""
    edges = np.flatnonzero(np.diff(symbols.astype(np.int64), prepend=-1, append=-1))
    return np.array([b - a for a, b in pairwise(edges.tolist())], dtype=np.int64)
