"""Encode long sound in chunks that overlap, so that memory is bounded by the chunk and the codes are those of the whole."""

from collections.abc import Callable, Sequence

import numpy as np

from transforms.codec.codec import CodecModel


def encode_in_chunks(codec: CodecModel, samples: np.ndarray, chunk_frames: int, context_frames: int) -> np.ndarray:
    """float32 `[n]` -> integers `[K, ceil(n / hop)]`, each chunk encoded with sound on both sides whose codes are thrown away.

    A codec that hears a bounded stretch around each frame gives the very codes of the whole once the context is as long as that
    (up to rounding: near a tie between two entries another may win). Recurrent and causal-attention ones (EnCodec's LSTM, Mimi)
    come close only. `share_equal` measures it.

    Args:
        chunk_frames: frames kept of one chunk. context_frames: frames on either side that are encoded too.

    Raises ValueError where there is no chunk.
    """
    (codes,) = in_chunks(lambda given: [codec.encode(given)], codec.hop, samples, chunk_frames, context_frames)
    return codes


def in_chunks(
    encode: Callable[[np.ndarray], Sequence[np.ndarray]],
    hop: int,
    samples: np.ndarray,
    chunk_frames: int,
    context_frames: int,
) -> list[np.ndarray]:
    """As `encode_in_chunks`, of whatever arrays `[..., T]` `encode` makes of samples."""
    if chunk_frames < 1 or context_frames < 0:
        raise ValueError(f"chunks of {chunk_frames} frames with {context_frames} around; at least 1 and 0 are needed")
    n_frames = -(-len(samples) // hop)
    parts = []
    for start in range(0, n_frames, chunk_frames):
        first = max(0, start - context_frames)
        end = min(n_frames, start + chunk_frames)
        given = samples[first * hop : min(len(samples), (end + context_frames) * hop)]
        parts.append([made[..., start - first : end - first] for made in encode(given)])
    return [np.concatenate(made, axis=-1) for made in zip(*parts, strict=True)] if parts else list(encode(samples))


def share_equal(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 `[K]`: for each codebook, the share of frames in which both `[K, T]` have the same code. 1 where T is 0."""
    return (codes == others).mean(axis=1) if codes.shape[1] else np.ones(len(codes))
