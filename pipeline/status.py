"""`antiphon status`: what the commit records and the logs of a corpus say."""

import json
from collections import Counter

from pipeline import files
from pipeline.prepare import Summary, summarise
from pipeline.store import Store
from schemas.errors import UserError
from schemas.show import show


def describe(summary: Summary) -> str:
    """A summary as a few lines for people."""
    share = summary.seconds_kept / summary.seconds_in if summary.seconds_in else 0.0
    lines = [
        f"{summary.done} of {summary.blocks} blocks committed, {summary.rows} rows",
        f"{_hours(summary.seconds_in)} in = {_hours(summary.seconds_kept)} kept ({share:.1%}) "
        f"+ {_hours(sum(summary.rejected.values()))} rejected",
    ]
    for reason, seconds in sorted(summary.rejected.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"  {show(reason):<14} {_hours(seconds)}")
    return "\n".join(lines)


def _hours(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 3600:.2f} h"


def speeds(store: Store) -> dict[str, float]:
    """Stage -> seconds of audio in for each second of its compute (x real time), over all committed blocks."""
    spent: Counter[str] = Counter()
    audio_s = 0.0
    for log in store.logs().values():
        audio_s += log["seconds_in"]
        for stage, seconds in log["stage_s"].items():
            spent[stage] += seconds
    spent["all"] = sum(spent.values())  # type: ignore[assignment]
    return {stage: audio_s / seconds for stage, seconds in spent.items() if seconds > 0}


def run_status(corpus: str, as_json: bool) -> int:
    """Print the state of a corpus; exit code 0 when every planned block is committed, 1 when some are not."""
    store = Store(corpus)
    if not files.exists(store.path("plan.jsonl")):
        raise UserError(f"{corpus}: no corpus here (there is no plan.jsonl)")
    planned = len(files.read(store.path("plan.jsonl")).decode().splitlines())
    summary = summarise(store.commits(), planned, 0.0)
    rates = speeds(store)
    if as_json:
        fields = {name: value for name, value in vars(summary).items() if name != "took_s"}
        print(json.dumps(fields | {"x_real_time": rates}, indent=1))
    else:
        print(describe(summary))
        if rates:
            print("x real time: " + ", ".join(f"{show(stage)} {rate:.1f}" for stage, rate in rates.items()))
    return 0 if summary.done == summary.blocks else 1
