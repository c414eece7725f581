"""Continuous latents of codecs: their scale, and what is checked of them before they are stored."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from schemas import Latents, Tokenizer
from schemas.errors import UserError
from transforms.codec.chunks import in_chunks
from transforms.codec.codec import CodecModel, ContinuousCodec, Encoded

_DIGITS = 5
"""Significant digits of a card's scale: more would not change a float16."""


def rvq_latents(levels: Sequence[Any]) -> Latents:
    """The card of what a residual quantiser of these levels quantises, each a tensor `[codes, d]` in the latents' own space.

    A latent is near the sum of one code of each level. With all codes of a level equally frequent, and levels independent, its
    mean is the sum of the levels' means and its variance that of their variances: a scale that follows from the weights alone,
    so that every shard of every corpus has the same.
    """
    arrays = [level.detach().cpu().double().numpy() for level in levels]
    mean, variance = sum(a.mean(0) for a in arrays), sum(a.var(0) for a in arrays)
    return Latents("rvq", rounded(mean), rounded(np.maximum(np.sqrt(variance), 1e-6)))


def rounded(values: np.ndarray) -> tuple[float, ...]:
    """Numbers `[d]` as they stand in a card."""
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values.tolist())


def save_scale(path: Path, mean: np.ndarray, deviation: np.ndarray, revision: str) -> None:
    """Write a scale `[d]` of the latents of the codec of a revision."""
    from safetensors.numpy import save_file

    tensors = {"mean": mean.astype(np.float32), "deviation": deviation.astype(np.float32)}
    save_file(tensors, path, metadata={"codec_revision": revision})


def with_scale(latents: Latents, path: Path, revision: str) -> Latents:
    """The card with the scale of a file in place of the model's. Raises UserError where that is not of this codec."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            of = (file.metadata() or {}).get("codec_revision", "")
            mean, deviation = file.get_tensor("mean"), file.get_tensor("deviation")
    except (OSError, SafetensorError) as error:
        raise UserError(f"codec.latent_scale: {path}: {error}; `antiphon fit latents` writes such a file") from None
    if of != revision or mean.shape != (latents.dim,) or deviation.shape != mean.shape:
        raise UserError(
            f"codec.latent_scale: {path} is of codec revision {of[:12]}, {len(mean)} dimensions, and this is {revision[:12]}, "
            f"{latents.dim}: fit it on a corpus of this codec"
        )
    return replace(latents, mean=rounded(mean.astype(np.float64)), deviation=rounded(deviation.astype(np.float64)))


def continuous(codec: CodecModel | ContinuousCodec, model: str) -> ContinuousCodec:
    """The codec, of whose latents the card is known. Raises UserError where it has none."""
    if getattr(codec, "latents", None) is None:
        raise UserError(
            f"codec.latents: nothing here gives continuous latents of {model}; backend mel does, transformers with EnCodec, "
            "Mimi or DAC, and vae"
        )
    return codec  # type: ignore[return-value]


def latents_in_chunks(codec: ContinuousCodec, samples: np.ndarray, chunk_frames: int, context_frames: int) -> Encoded:
    """As `codec.encode_latents`, a piece at a time (`transforms.codec.chunks`)."""

    def encode(given: np.ndarray) -> list[np.ndarray]:
        codes, latents, variance = codec.encode_latents(given)
        nothing = np.zeros((0, len(latents)))
        return [nothing if codes is None else codes, latents.T, nothing if variance is None else variance.T]

    codes, latents, variance = in_chunks(encode, codec.hop, samples, chunk_frames, context_frames)
    return Encoded(codes if len(codes) else None, latents.T, variance.T if len(variance) else None)


def stored(card: Tokenizer, encoded: Encoded, n_samples: int) -> Encoded:
    """Latents as they are stored, in float16. Raises ValueError where they are not what the card says, or do not fit in it."""
    assert card.latents
    if (encoded.variance is not None) != card.latents.variance:
        raise ValueError(f"{card.name}: a variance is {'missing' if card.latents.variance else 'not in the card'}")
    wanted = (card.n_frames(n_samples), card.latents.dim)

    def half(name: str, values: np.ndarray) -> np.ndarray:
        if values.shape != wanted:
            raise ValueError(f"{card.name}: {name} {values.shape} of {n_samples} samples, and {wanted} were expected")
        with np.errstate(over="ignore"):
            kept = values.astype(np.float16)
        if not np.isfinite(kept).all():
            raise ValueError(f"{card.name}: {name} up to {np.abs(values).max():g}, which float16 does not hold")
        return kept

    latents = half("latents", encoded.latents)
    if encoded.variance is None:
        return encoded._replace(latents=latents)
    if (encoded.variance < 0).any():
        raise ValueError(f"{card.name}: a variance below 0")
    return encoded._replace(latents=latents, variance=half("variance", encoded.variance))
