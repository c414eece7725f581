"""The bench's results as one table, for a terminal and in Markdown, and as JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from pipeline.bench.probe import ProbeReport
from pipeline.bench.streams import StreamReport

_NONE = "-"


@dataclass
class Result:
    """One row of the bench: what was measured of one tokenizer. None for what it does not have.

    Attributes:
        signal: by measure (`signal.MEASURES`). wer: word error rate of what it gives back, a share.
        wer_first: the same, from the first codebook alone.
        speaker_similarity: mean cosine between a clip's voice before and after.
        probes: by label, its report or, in words, why there is none.
        encode_x, decode_x: seconds of sound a second of the report's clock.
    """

    name: str
    stream: StreamReport | None = None
    signal: dict[str, float | None] = field(default_factory=dict)
    wer: float | None = None
    wer_first: float | None = None
    speaker_similarity: float | None = None
    probes: dict[str, ProbeReport | str] = field(default_factory=dict)
    encode_x: float | None = None
    decode_x: float | None = None


@dataclass
class Report:
    """All rows, and the conditions under which they were measured."""

    conditions: dict[str, Any]
    results: list[Result]

    def as_json(self) -> dict[str, Any]:
        return {"conditions": self.conditions, "tokenizers": [asdict(result) for result in self.results]}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _stream(get: Callable[[StreamReport], float | None]) -> Callable[[Result], float | None]:
    return lambda result: get(result.stream) if result.stream else None


def _signal(name: str) -> Callable[[Result], float | None]:
    return lambda result: result.signal.get(name)


def probe_accuracy(name: str, result: Result) -> float | None:
    found = result.probes.get(name)
    return found.accuracy if isinstance(found, ProbeReport) else None


Row = tuple[str, Callable[[Result], float | None], str]

SECTIONS: dict[str, list[Row]] = {
    "tokens": [
        ("codebooks", _stream(lambda s: len(s.sizes)), "{:.0f}"),
        ("frames/s", _stream(lambda s: s.frames_per_s), "{:.2f}"),
        ("frames/s without repeats", _stream(lambda s: s.distinct_frames_per_s), "{:.2f}"),
        ("bit/s, raw", _stream(lambda s: s.raw_bits_per_s), "{:.0f}"),
        ("bit/s, unigram entropy", _stream(lambda s: s.unigram_bits_per_s), "{:.0f}"),
        ("bit/s, adaptive order-1 coder", _stream(lambda s: s.coded_bits_per_s), "{:.0f}"),
        ("bit/s, without repeats + run lengths", _stream(lambda s: s.deduplicated_bits_per_s), "{:.0f}"),
        ("codebook used", _stream(lambda s: mean(s.used_shares)), "{:.1%}"),
        ("perplexity", _stream(lambda s: mean(s.perplexities)), "{:.1f}"),
        ("run length, frames", _stream(lambda s: mean(s.mean_runs)), "{:.2f}"),
        ("repeats", _stream(lambda s: mean(s.repeat_shares)), "{:.1%}"),
    ],
    "signal": [
        ("PESQ wb", _signal("pesq_wb"), "{:.2f}"),
        ("STOI", _signal("stoi"), "{:.3f}"),
        ("mel distance", _signal("mel_distance"), "{:.2f}"),
        ("STFT distance", _signal("stft_distance"), "{:.2f}"),
        ("SI-SDR, dB", _signal("si_sdr_db"), "{:.1f}"),
        ("F0 correlation", _signal("f0_correlation"), "{:.3f}"),
    ],
    "application": [
        ("WER", lambda r: r.wer, "{:.1%}"),
        ("WER, first codebook alone", lambda r: r.wer_first, "{:.1%}"),
        ("speaker similarity", lambda r: r.speaker_similarity, "{:.3f}"),
    ],
    "speed": [
        ("encode, x real time", lambda r: r.encode_x, "{:,.1f}"),
        ("decode, x real time", lambda r: r.decode_x, "{:,.1f}"),
    ],
}
"""(what it is called, where it stands in a Result, how it is written), by section. The probes' rows follow from the results."""


def rows(report: Report) -> dict[str, list[tuple[str, list[str]]]]:
    """Section -> (measure, its value for each tokenizer as text); measures that none has are left out."""
    probes: list[Row] = []
    for name in dict.fromkeys(name for result in report.results for name in result.probes):
        probes.append((f"{name}, right", partial(probe_accuracy, name), "{:.1%}"))
    sections = SECTIONS | {"probes": probes}
    order = ["tokens", "signal", "application", "probes", "speed"]
    found = {}
    for section in order:
        lines = []
        for label, get, form in sections[section]:
            values = [get(result) for result in report.results]
            texts = [_NONE if value is None or math.isnan(value) else form.format(value) for value in values]
            if any(text != _NONE for text in texts):
                lines.append((label, texts))
        if lines:
            found[section] = lines
    return found


def table(report: Report) -> str:
    """For a terminal: measures down, tokenizers across."""
    names = [result.name for result in report.results]
    found = rows(report)
    first = max(len(label) for lines in found.values() for label, _ in lines)
    widths = [
        max(len(name), *(len(texts[i]) for lines in found.values() for _, texts in lines))
        for i, name in enumerate(names)
    ]
    out = ["  ".join([" " * first, *(name.rjust(w) for name, w in zip(names, widths, strict=True))])]
    for section, lines in found.items():
        out.append(section.upper())
        for label, texts in lines:
            out.append("  ".join([label.ljust(first), *(t.rjust(w) for t, w in zip(texts, widths, strict=True))]))
    return "\n".join([*out, "", *notes(report)])


def markdown(report: Report) -> str:
    """The same as a Markdown table, and the conditions beneath it."""
    names = [result.name.replace("|", "\\|") for result in report.results]
    out = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for section, lines in rows(report).items():
        out.append(f"| **{section}** |" + " |" * len(names))
        out += [f"| {label} | " + " | ".join(texts) + " |" for label, texts in lines]
    return "\n".join([*out, "", *(f"* {note}" for note in notes(report))]) + "\n"


def notes(report: Report) -> list[str]:
    """What one has to know to read the table, a line each."""
    c = report.conditions
    lines = [
        f"{c['clips']} clips, {c['seconds']:.1f} s, of {c['corpus']}; {c['date']}, {c['machine']}; {c['versions']}",
        f"{c['clock']}; one clip at a time, the first run of each left out",
        f"words: {c['words']}",
    ]
    if c.get("similarity_of_one_speaker") is not None and c.get("similarity_of_two_speakers") is not None:
        lines.append(
            f"speaker similarity of other clips of the same speaker: {c['similarity_of_one_speaker']:.3f}, "
            f"of other speakers: {c['similarity_of_two_speakers']:.3f}"
        )
    if c.get("unfinished"):
        lines.append(f"interrupted: without {', '.join(c['unfinished'])}")
    for name, about in c["probes"].items():
        lines.append(f"{name} probe: {about}{_references(report, name)}")
    return lines


def _references(report: Report, name: str) -> str:
    """Chance and majority of a probe, and the reasons of those that have none."""
    found = {r.name: r.probes[name] for r in report.results if name in r.probes}
    known = [probe for probe in found.values() if isinstance(probe, ProbeReport)]
    text = ""
    if known:
        text = f"; {known[0].items} items, chance {known[0].chance:.1%}, the commonest class {known[0].majority:.1%}"
    reasons: Mapping[str, list[str]] = {}
    for subject, probe in found.items():
        if isinstance(probe, str):
            reasons = {**reasons, probe: [*reasons.get(probe, []), subject]}
    return text + "".join(f"; not of {', '.join(subjects)}: {reason}" for reason, subjects in reasons.items())
