"""`antiphon fit latents`: the scale of a codec's latents, over the rows of a corpus."""

from pathlib import Path

import numpy as np

from schemas.errors import UserError
from transforms.codec.latents import save_scale
from transforms.options import Options


class FitLatentsOptions(Options):
    """How to measure latents."""

    path: Path
    """The safetensors file to write, for `codec.latent_scale`."""
    data: str
    """The corpus in one phrase; printed only."""


def fit_latents(corpus: str, options: FitLatentsOptions) -> str:
    """Mean and deviation of each dimension over the `train` rows, written to `options.path`; returns a line that says what of.

    Raises UserError for a corpus without latents.
    """
    from training.reader import Corpus

    opened = Corpus(corpus)
    card = opened.cards.get("codec")
    if card is None or card.latents is None:
        raise UserError(f"{corpus}: no latents in it: prepare it with codec.latents: true")
    n, total, squares = 0, np.zeros(card.latents.dim), np.zeros(card.latents.dim)
    # About the card's own mean, so that squares do not outgrow what they differ by.
    about = np.asarray(card.latents.mean)
    for row in opened.rows("train", ["codec_latents"]):
        values = row["codec_latents"].astype(np.float64) - about
        n, total, squares = n + len(values), total + values.sum(0), squares + np.square(values).sum(0)
    if n < 2:
        raise UserError(f"{corpus}: {n} frames in the split train are too few")
    mean, deviation = total / n, np.sqrt(np.maximum(squares / n - np.square(total / n), 1e-12))
    save_scale(options.path, about + mean, deviation, card.revision)
    off, wide = np.abs(mean / card.latents.deviation).max(), deviation / card.latents.deviation
    return (
        f"{card.latents.dim} dimensions of {card.name} over {n} frames, {options.data}. By the card's scale the means are up to "
        f"{off:.2f} deviations off, and the deviations {wide.min():.2f} to {wide.max():.2f}. Written to {options.path}"
    )
