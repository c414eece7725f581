"""`antiphon train`: find the trunk by its name, train, and say where everything is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import ConfigError, assign_all, explain
from pipeline.store import Store
from training.options import TrainOptions
from transforms.weights import locate

INTERRUPTED = 130
"""Exit code of a run that a signal ended; the same command goes on."""


def run_train(options: TrainOptions, corpora: Sequence[str], out: str) -> int:
    """Train on corpora into the folder `out`, or go on there. Returns the exit code.

    Raises UserError; CorpusBusy where another run is training into `out`.
    """
    from training.train import train

    # With DPO the beginning is a checkpoint, and no text LM is asked for.
    trunk = Path() if options.dpo else locate(options.trunk).path
    with Store(out).lock(None):  # two runs into one folder would write one log
        result = train(options, list(corpora), trunk, Path(out), say=lambda line: print(line, flush=True))
    if result.before and result.after and result.step > 0 and not result.interrupted:
        after = result.after["streams"]
        print("held-out loss by stream, before and after:")
        for stream, before in result.before["streams"].items():
            print(f"  {stream:<10} {before['loss']:8.4f} -> {after[stream]['loss']:8.4f}")
    print(f"checkpoint: {result.checkpoint}\nlog:        {Path(out) / 'log.jsonl'}")
    return INTERRUPTED if result.interrupted else 0


def run_dpo(checkpoint: str, preferences: str, out: str, assignments: Sequence[str]) -> int:
    """Train a checkpoint on preferences into the folder `out`, or go on there. Returns the exit code.

    Raises UserError: options that do not exist, no such files; and what `run_train` raises.
    """
    from training.dpo import options_for

    values: dict[str, Any] = {}
    mistakes = assign_all(values, assignments)
    try:
        options = options_for(checkpoint, preferences, values)
    except ValidationError as error:
        mistakes += [explain(e, "dpo", TrainOptions) for e in error.errors()]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return run_train(options, [], out)
