"""What a run says: `log.jsonl`, one object a step and one a held-out evaluation, and dense lines for people."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.evaluate import Report
from training.model import StreamLosses
from training.saving import saving, sync

_MOST_STREAMS = 6
"""Streams that a line names one by one; the rest are given as their mean."""


@dataclass(frozen=True)
class StepLog:
    """One step: its losses, and the tokens and seconds of sound that it took so many seconds for."""

    step: int
    loss: float
    streams: StreamLosses
    lr: float
    grad_norm: float
    tokens: int
    audio_s: float
    seconds: float


class Log:
    """`log.jsonl`. Opened at a checkpoint's step, it forgets what a killed run wrote after that step."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        # A run killed while it wrote leaves a torn last line; the step it was for is done again.
        kept = [entry for entry in map(_parse, lines) if entry and entry["step"] <= step and step > 0]
        # Renamed into place: a run killed here must not lose what the runs before it wrote.
        temporary = path.with_name(f".tmp-{path.name}")
        with saving(path):
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept), "utf-8")
            sync(temporary)
            os.replace(temporary, path)

    def _write(self, entry: dict[str, Any]) -> None:
        with saving(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def sync(self) -> None:
        """Bring what was written to the disk."""
        with saving(self.path):
            sync(self.path)

    def step(self, done: StepLog) -> None:
        self._write(
            {
                "step": done.step,
                "loss": done.loss,
                "streams": done.streams.means(),
                "lr": done.lr,
                "grad_norm": done.grad_norm,
                "tokens_per_s": round(done.tokens / done.seconds, 2),
                "audio_h_per_h": round(done.audio_s / done.seconds, 3),
            }
        )

    def heldout(self, report: Report) -> None:
        self._write({"step": report.step, "heldout": asdict(report)})

    def heldouts(self) -> list[dict[str, Any]]:
        """Every held-out report so far, as JSON."""
        entries = map(_parse, self.path.read_text("utf-8").splitlines())
        return [entry["heldout"] for entry in entries if entry and "heldout" in entry]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except ValueError:
        return None


def _streams(means: Mapping[str, float]) -> str:
    names = sorted(means, key=lambda name: (name != "text", name != "pad"))
    shown, rest = names[:_MOST_STREAMS], names[_MOST_STREAMS:]
    parts = [f"{name} {means[name]:.3f}" for name in shown]
    if rest:
        parts.append(f"{len(rest)} more {sum(means[name] for name in rest) / len(rest):.3f}")
    return "  ".join(parts)


def heldout_line(report: Report) -> str:
    means = {name: stream.loss for name, stream in report.streams.items()}
    return f"held out at step {report.step}  loss {report.total:.4f}  {_streams(means)}  ({report.rows} rows)"


def step_line(window: Sequence[StepLog], steps: int) -> str:
    """The last steps in one line: mean losses, and speeds over all of them."""
    last = window[-1]
    losses = StreamLosses()
    for done in window:
        losses.update(done.streams)
    seconds = sum(done.seconds for done in window)
    left = round((steps - last.step) * seconds / len(window))
    return "  ".join(
        [
            f"step {last.step:>5}/{steps}",
            f"loss {sum(done.loss for done in window) / len(window):.4f}",
            _streams(losses.means()),
            f"lr {last.lr:.2e}",
            f"|g| {last.grad_norm:.2f}",
            f"{sum(done.tokens for done in window) / seconds:.0f} tokens/s",
            f"{sum(done.audio_s for done in window) / seconds:.1f} audio-h/h",
            f"ETA {left // 60}:{left % 60:02d}",
        ]
    )
