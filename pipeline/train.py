"""`antiphon train`: find the trunk by its name, train, and say where everything is."""

from collections.abc import Sequence
from pathlib import Path

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

    trunk = locate(options.trunk).path
    with Store(out).lock(None):  # two runs into one folder would write one log
        result = train(options, list(corpora), trunk, Path(out), say=lambda line: print(line, flush=True))
    if result.before and result.after and result.step > 0 and not result.interrupted:
        after = result.after["streams"]
        print("held-out loss by stream, before and after:")
        for stream, before in result.before["streams"].items():
            print(f"  {stream:<10} {before['loss']:8.4f} -> {after[stream]['loss']:8.4f}")
    print(f"checkpoint: {result.checkpoint}\nlog:        {Path(out) / 'log.jsonl'}")
    return INTERRUPTED if result.interrupted else 0
