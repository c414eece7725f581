"""The bench's results as one picture: a panel a measure, a bar a tokenizer; the clips themselves are a dashed line."""

import io
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.bench.probe import ProbeReport
from pipeline.bench.report import Report, Result, mean, probe_accuracy
from pipeline.bench.subjects import ORIGINAL

_DPI = 130
_GREY, _INK = "#8a8a8a", "#222222"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b8a900")
"""Okabe and Ito's, which people who do not tell red from green can tell apart."""


@dataclass(frozen=True)
class Panel:
    """One measure: its title with unit, where it stands, how it is written; a reference line with its name."""

    title: str
    get: Callable[[Result], float | None]
    form: str
    log: bool = False
    line: tuple[float, str] | None = None
    second: Callable[[Result], float | None] | None = None
    """A smaller value of the same unit, drawn inside the bar."""


def picture(report: Report) -> bytes:
    """A PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    results = [r for r in report.results if r.name != ORIGINAL]
    panels = _panels(report)
    columns = 3
    n_rows = -(-len(panels) // columns)
    figure = Figure(figsize=(13, n_rows * (1.05 + 0.3 * len(results)) + 0.6), dpi=_DPI)
    figure.set_layout_engine(ConstrainedLayoutEngine(h_pad=0.12, hspace=0.04))
    axes = figure.subplots(n_rows, columns, squeeze=False)
    for i, axis in enumerate(axes.flat):
        if i < len(panels):
            _draw(axis, panels[i], results, labels=i % columns == 0)
        else:
            axis.set_axis_off()
    c = report.conditions
    figure.suptitle(f"{c['clips']} clips, {c['seconds']:.0f} s, of {c['corpus']}; {c['date']}", fontsize=12, color=_INK)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def _panels(report: Report) -> list[Panel]:
    """Those that at least one tokenizer has a value for."""
    original = next((r.wer for r in report.results if r.name == ORIGINAL), None)
    panels = [
        Panel(
            "bit rate, kbit/s: raw, and (dark) coded, order 1",
            lambda r: r.stream.raw_bits_per_s / 1000 if r.stream else None,
            "{:.2f}",
            second=lambda r: r.stream.coded_bits_per_s / 1000 if r.stream else None,
        ),
        Panel(
            "frames/s: all, and (dark) without repeats",
            lambda r: r.stream.frames_per_s if r.stream else None,
            "{:.1f}",
            second=lambda r: r.stream.distinct_frames_per_s if r.stream else None,
        ),
        Panel(
            "codebook perplexity, share of its size",
            lambda r: (
                mean([p / n for p, n in zip(r.stream.perplexities, r.stream.sizes, strict=True)]) if r.stream else None
            ),
            "{:.0%}",
        ),
        Panel(
            "word error rate (lower is better)",
            lambda r: r.wer,
            "{:.1%}",
            line=_line(original, "the clips themselves"),
        ),
        Panel(
            "speaker similarity, cosine",
            lambda r: r.speaker_similarity,
            "{:.3f}",
            line=_line(report.conditions.get("similarity_of_two_speakers"), "other speakers"),
        ),
        Panel("STOI, at most 1", lambda r: r.signal.get("stoi"), "{:.3f}"),
        Panel("PESQ wide band, at most 4.64", lambda r: r.signal.get("pesq_wb"), "{:.2f}"),
        Panel("mel distance (lower is better)", lambda r: r.signal.get("mel_distance"), "{:.2f}"),
        Panel("STFT distance (lower is better)", lambda r: r.signal.get("stft_distance"), "{:.2f}"),
        Panel("SI-SDR, dB", lambda r: r.signal.get("si_sdr_db"), "{:.1f}"),
        Panel("F0 correlation", lambda r: r.signal.get("f0_correlation"), "{:.3f}"),
    ]
    for name in dict.fromkeys(name for r in report.results for name in r.probes):
        known = [r.probes[name] for r in report.results if isinstance(r.probes.get(name), ProbeReport)]
        if known and isinstance(known[0], ProbeReport):
            panels.append(
                Panel(
                    f"{name} probe, right",
                    partial(probe_accuracy, name),
                    "{:.1%}",
                    line=(known[0].majority, "commonest class"),
                )
            )
    panels += [
        Panel("encoding, x real time (log)", lambda r: r.encode_x, "{:.3g}", log=True),
        Panel("decoding, x real time (log)", lambda r: r.decode_x, "{:.3g}", log=True),
    ]
    return [panel for panel in panels if any(panel.get(r) is not None for r in report.results if r.name != ORIGINAL)]


def _line(value: float | None, name: str) -> tuple[float, str] | None:
    return (value, name) if value is not None else None


def _draw(axis: Any, panel: Panel, results: list[Result], *, labels: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    values = [panel.get(r) for r in results]
    known = [v for v in values if v is not None]
    places = range(len(results))
    colours = [_COLOURS[i % len(_COLOURS)] for i in places]
    top = max([*known, *([panel.line[0]] if panel.line else [])])
    least = min([0.0, *known])
    axis.set_title(panel.title, fontsize=10, loc="left", color=_INK)
    if "%" in panel.form:
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axis.xaxis.set_major_locator(LogLocator() if panel.log else MaxNLocator(5))
    if panel.log:
        axis.set_xscale("log")
        axis.set_xlim(min([1.0, *known]) / 2, top * 6)
    else:
        axis.set_xlim(least * 1.25, (top or 1.0) * 1.28)
    inner = [panel.second(r) if panel.second else None for r in results]
    for place, value, part, colour in zip(places, values, inner, colours, strict=True):
        if value is None:
            axis.text(0.01, place, "–", transform=axis.get_yaxis_transform(), va="center", fontsize=9, color=_GREY)
            continue
        axis.barh(place, value, height=0.62, color=colour, alpha=1.0 if part is None else 0.4)
        text = panel.form.format(value)
        if part is not None:
            axis.barh(place, part, height=0.3, color=colour)
            text += f" / {panel.form.format(part)}"
        axis.annotate(
            text, (max(value, 0.0), place), (4, 0), textcoords="offset points", va="center", fontsize=9, color=_INK,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}, zorder=4,
        )  # fmt: skip
    if panel.line is not None:
        axis.axvline(panel.line[0], color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axis.annotate(
            panel.line[1], (panel.line[0], 1.0), (3, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
            fontsize=8, color=_INK, va="top",
        )  # fmt: skip
    axis.set_ylim(len(results) - 0.5, -0.5 - (0.55 if panel.line else 0.0))
    axis.set_yticks(list(places))
    axis.set_yticklabels([textwrap.fill(r.name, 22) for r in results] if labels else [], fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8, colors=_GREY)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(_GREY)
