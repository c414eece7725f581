"""What a run says: `log.jsonl`, one object a step and one a held-out evaluation, and dense lines for people."""

import importlib
import json
import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from schemas.errors import UserError
from training.evaluate import Report
from training.losses import StreamLosses
from training.saving import saving, sync

_MOST_STREAMS = 6
"""Streams that a line names one by one; the rest are given as their mean."""


@dataclass(frozen=True)
class StepLog:
    """One step: its losses, and the tokens and seconds of sound that it took so many seconds for.

    `waited_s`: of these, spent waiting for the batch. padding: positions that held nothing. peak_s: seconds that the device
    would need at its peak, None where that is not known. memory_bytes: the most that the process has taken so far.
    """

    step: int
    loss: float
    streams: StreamLosses
    lr: float
    grad_norm: float
    tokens: int
    audio_s: float
    seconds: float
    waited_s: float = 0.0
    padding: int = 0
    peak_s: float | None = None
    memory_bytes: int = 0


class Log:
    """`log.jsonl`. Opened at a checkpoint's step, it forgets what a killed run wrote after that step."""

    def __init__(self, path: Path, step: int, track: Sequence[str] | None = ()) -> None:
        """`track`: what else takes the numbers (`TrainOptions.track`). None: write nothing, as all processes but one do.

        Raises UserError where one of these is not installed.
        """
        self.path = path
        self.silent = track is None
        self.trackers = [_tracker(name, path.parent, step) for name in track or ()]
        if self.silent:
            return
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
        if self.silent:
            return
        numbers = dict(_numbers(entry))
        for track in self.trackers:
            track(entry["step"], numbers)
        with saving(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def sync(self) -> None:
        """Bring what was written to the disk."""
        if not self.silent:
            with saving(self.path):
                sync(self.path)

    def close(self) -> None:
        """Let the trackers finish what they have."""
        for track in self.trackers:
            track(None, {})

    def has_heldout(self, step: int) -> bool:
        """Whether the last held-out report is that of a step."""
        reports = self.heldouts()
        return bool(reports) and reports[-1]["step"] >= step

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
                "padding": round(done.padding / max(1, done.padding + done.tokens), 6),
                "machine": {
                    "wait": round(done.waited_s / done.seconds, 4),
                    "mfu": None if done.peak_s is None else round(done.peak_s / done.seconds, 4),
                    "memory_mb": done.memory_bytes // 1_000_000,
                },
            }
        )

    def heldout(self, report: Report) -> None:
        self._write({"step": report.step, "heldout": asdict(report)})

    def heldouts(self) -> list[dict[str, Any]]:
        """Every held-out report so far, as JSON."""
        if not self.path.exists():
            return []
        entries = map(_parse, self.path.read_text("utf-8").splitlines())
        return [entry["heldout"] for entry in entries if entry and "heldout" in entry]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except ValueError:
        return None


Tracker = Callable[[int | None, dict[str, float]], None]
"""Takes the numbers of a step; with None, the end."""


def _tracker(name: str, folder: Path, step: int) -> Tracker:
    if name == "tensorboard":
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("train.track: tensorboard is not installed: pip install antiphon[train]") from None
        # What a killed run wrote after its last checkpoint is taken back.
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

        def events(at: int | None, numbers: dict[str, float]) -> None:
            if at is None:
                writer.close()
            for tag, value in numbers.items():
                writer.add_scalar(tag, value, at)

        return events
    try:
        module = importlib.import_module(name)
    except ImportError:
        raise UserError(f"train.track: {name} is not installed: pip install {name}") from None
    module.init(project="antiphon", name=folder.name)

    def send(at: int | None, numbers: dict[str, float]) -> None:
        if at is None:
            module.finish()
        else:
            module.log(numbers, step=at)

    return send


def _numbers(entry: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in an entry, named by the way to them: `streams/text`."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield f"{before}{name}", float(value)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most allocated on a GPU, or the most that this process has had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
    padding = sum(done.padding for done in window)
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
            *([f"MFU {peak_s / seconds:.1%}"] if (peak_s := sum(d.peak_s or 0 for d in window)) else []),
            f"padding {padding / max(1, padding + sum(d.tokens for d in window)):.1%}",
            f"wait {sum(d.waited_s for d in window) / seconds:.1%}",
            f"{last.memory_bytes / 1e9:.2f} GB",
            f"ETA {left // 60}:{left % 60:02d}",
        ]
    )
