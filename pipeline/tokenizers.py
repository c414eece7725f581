"""`antiphon tokenizers`: the published settings that are known by name, and the kinds of codecs."""

import math

from transforms.codec.known import CODECS
from transforms.units.presets import PRESETS
from transforms.units.s3 import PUBLISHED


def listing() -> str:
    """Three tables: units by k-means, units of their own, and codecs."""
    lines = [f"{'units.preset':38s} {'encoder':30s} {'layer':>5s} {'k':>5s} {'Hz':>5s} {'bits/s':>7s}  used by"]
    for name, p in PRESETS.items():
        model = p.model or "(a folder)"
        bits = p.rate_hz * math.log2(p.k)
        lines.append(f"{name:38s} {model:30s} {p.layer:5d} {p.k:5d} {p.rate_hz:5g} {bits:7.0f}  {p.users}")
    lines += ["", f"{'units.backend':14s} {'of':20s} {'file, as units.model':26s} {'k':>5s} {'Hz':>5s} {'bits/s':>7s}"]
    for of, file, k, rate_hz in PUBLISHED:
        lines.append(f"{'s3':14s} {of:20s} {file:26s} {k:5d} {rate_hz:5g} {rate_hz * math.log2(k):7.0f}")
    lines += [
        "",
        f"{'codec.backend':15s} {'model':32s} {'Hz':>7s} {'books x size':>14s} {'bits/s':>7s} {'latents':>7s}  note",
    ]
    for c in CODECS:
        bits = c.rate_hz * c.n_codebooks * math.log2(c.size)
        books = f"{c.n_codebooks} x {c.size}" if c.n_codebooks else "none"
        lines.append(
            f"{c.backend:15s} {c.model:32s} {c.rate_hz:7.4g} {books:>14s} {bits:7.0f} {c.latents or '':>7}  {c.note}"
        )
    return "\n".join(lines)
