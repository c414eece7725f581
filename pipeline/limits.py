"""When a finished run counts as failed: too much was rejected, or lost to faults. With an example of each of the top reasons."""

from collections.abc import Iterator, Sequence

from pipeline import files, shards
from pipeline.config import LimitOptions
from pipeline.prepare import Summary
from pipeline.store import Store
from schemas import FAULTS, SILENCE, SOURCE_FAULTS, Reason
from schemas.show import show

_TOP = 3


def rejected_share(summary: Summary) -> float:
    """Share 0..1 of the speech that was rejected: silence is counted on neither side. 1 where all is silence, 0 for nothing."""
    speech_s = summary.seconds_in - sum(summary.rejected.get(reason, 0.0) for reason in SILENCE)
    if speech_s > 1e-6:
        return 1 - summary.seconds_kept / speech_s
    return 1.0 if summary.seconds_in else 0.0


def fault_share(summary: Summary, pieces: int) -> float:
    """Share 0..1 lost to faults: of the seconds, or of the planned pieces (whole files, mostly), whichever is larger."""
    lost_s = sum(summary.rejected.get(reason, 0.0) for reason in FAULTS)
    # A truncated piece, or one longer than declared, is not lost as a whole.
    lost = sum(summary.rejections.get(reason, 0) for reason in SOURCE_FAULTS - {Reason.TRUNCATED, Reason.UNDECLARED})
    by_time = lost_s / summary.seconds_in if summary.seconds_in else 0.0
    return max(by_time, min(1.0, lost / pieces) if pieces else 0.0)


def excesses(summary: Summary, pieces: int, limits: LimitOptions) -> list[str]:
    """What is past its limit, a line for each."""
    lines = []
    share = rejected_share(summary)
    if share > limits.max_rejected_share:
        lines.append(
            f"{share:.1%} of the speech was rejected, more than limits.max_rejected_share = {limits.max_rejected_share:.1%}"
        )
    share = fault_share(summary, pieces)
    if share > limits.max_fault_share:
        lines.append(
            f"{share:.1%} was lost to faults, more than limits.max_fault_share = {limits.max_fault_share:.1%} "
            "(of the seconds, or of the files)"
        )
    return lines


def examples(store: Store, summary: Summary) -> Iterator[str]:
    """The top reasons by seconds, then by count, each with its first rejection: file, seconds, detail."""
    order = sorted(summary.rejections, key=lambda r: (-summary.rejected.get(r, 0.0), -summary.rejections[r], r))
    speech = [reason for reason in order if reason not in SILENCE]
    for reason in (speech or order)[:_TOP]:
        yield (
            f"{reason}: {summary.rejections[reason]} times, {summary.rejected.get(reason, 0.0):.1f} s, such as "
            f"{_first(store, reason)}"
        )


def _first(store: Store, reason: str) -> str:
    wanted: Sequence[str] = [name for name, commit in store.commits().items() if reason in commit.rejections]
    for name in wanted[:1]:
        for row in shards.read_parquet(files.read(store.path("rejected", f"{name}.parquet"))):
            if row["reason"] == reason:
                where = f"{show(row['source'])} [{row['start_s']:.2f} .. {row['end_s']:.2f} s]"
                return f"{where} in {row['stage']}: {show(row['detail'])}"
    return "none"
