"""A sequence drawn as a table: a line for each row, a column for each step."""

from collections.abc import Callable

import numpy as np

from training.layouts.base import IGNORE, NOTHING, Layout, Sequence


def cells(layout: Layout, laid: Sequence, written: Callable[[int], str]) -> list[list[str]]:
    """What stands in each row and step, as text; `written` gives that of a text token.

    An id that is not learnt is in brackets, NOTHING is a dot. Of a latent, the first number.
    """
    ids, given = laid.inputs, np.ones(laid.inputs.shape, dtype=bool)
    if layout.in_place:
        given = laid.labels == IGNORE
        ids = np.where(given, ids, laid.labels)
    else:
        given[1:] = laid.labels[:-1] == IGNORE
    table = []
    for r, row in enumerate(layout.rows):
        line = []
        for i, is_given in zip(ids[:, r].tolist(), given[:, r], strict=True):
            if i == NOTHING:
                line.append(".")
                continue
            name = row.specials[i - row.size] if i >= row.size else written(i) if r == 0 else str(i)
            line.append(f"({name})" if is_given else name)
        table.append(line)
    if laid.latents is not None:
        table.append(["." if np.isnan(x) else f"{x:.1f}" for x in laid.latents[:, 0]])
    return table


def draw(
    layout: Layout, laid: Sequence, written: Callable[[int], str], steps: int, width: int = 118, first: int = 0
) -> list[str]:
    """`steps` positions from `first` on as lines of at most `width` characters, in as many bands as that takes."""
    table = [[str(p) for p in range(len(laid.inputs))], *cells(layout, laid, written)]
    names = ["step", *(row.name for row in layout.rows), *(["latent"] if laid.latents is not None else [])]
    margin = max(map(len, names)) + 1
    end = min(first + steps, len(laid.inputs))
    widths = {p: max(len(line[p]) for line in table) + 1 for p in range(first, end)}
    bands: list[list[int]] = [[]]
    for p, w in widths.items():
        if bands[-1] and margin + sum(widths[q] for q in bands[-1]) + w > width:
            bands.append([])
        bands[-1].append(p)
    lines = []
    for band in bands:
        for name, line in zip(names, table, strict=True):
            lines.append((name.ljust(margin) + "".join(line[p].ljust(widths[p]) for p in band)).rstrip())
        lines.append("")
    if end < len(laid.inputs):
        lines[-1:] = [f"... {len(laid.inputs) - end} further steps", ""]
    return lines[:-1]


def summary(layout: Layout, laid: Sequence) -> str:
    """Its length, what is learnt in it, and what did not come in its time or not at all."""
    n = len(laid.inputs)
    rate = f", {n / laid.audio_s:.1f} a second" if laid.audio_s > 0 else ""
    counts = (laid.labels != IGNORE).sum(axis=0)
    learnt = ", ".join(f"{row.name} {count}" for row, count in zip(layout.rows, counts, strict=True) if count)
    weights = f"text {layout.options.text_weight:g}, speech {layout.options.speech_weight:g}"
    if laid.latent_labels is not None:
        learnt += f", latent {int((~np.isnan(laid.latent_labels[:, 0])).sum())} x {laid.latent_labels.shape[1]}"
    parts = [f"{n} steps{rate}", f"learnt: {learnt or 'nothing'}", f"weights: {weights}"]
    if laid.shifted:
        parts.append(f"{laid.shifted} text tokens late")
    if laid.dropped:
        parts.append(f"{laid.dropped} units without room")
    if laid.ctc_targets is not None:
        parts.append(f"CTC targets: {len(laid.ctc_targets)}")
    return "; ".join(parts)
