"""Unit BPE in layouts: how much shorter sequences become, and what a second of held-out speech costs a model trained with it.

python -m benchmarks.unit_bpe CORPUS --layouts units,spirit-lm --sizes 1000,4000 --steps 200

Each way takes as many steps of as many positions, and so hears more speech where sequences are shorter. Nats a second are those of
the row of units, its marks with it: the figure that does not depend on how many tokens a second is cut into. `units:frames` is the
layout `units` with one unit a frame.
"""

import argparse
import json
import time
from pathlib import Path

from benchmarks.common import machine, table
from pipeline.fit_bpe import FitBpeOptions, fit_bpe
from training.evaluate import evaluate
from training.options import TrainOptions
from training.train import train
from transforms.weights import locate


def run(options: argparse.Namespace, layout: str, size: int) -> list[str]:
    """Fit merges (none where `size` is 0), train, and measure: one line of the table."""
    name, _, frames = layout.partition(":")
    chosen = {"name": name, "deduplicate": not frames}
    out = Path(options.work) / f"{name}{frames}-{size}"
    if size:
        out.mkdir(parents=True, exist_ok=True)
        chosen["bpe"] = str(out / "bpe.json")
        inside = name in ("spirit-lm", "sims", "spectron")
        merges = FitBpeOptions(
            path=chosen["bpe"], data=options.corpus, size=size, inside_words=inside, deduplicate=not frames
        )
        print(fit_bpe(options.corpus, merges))
    given = TrainOptions.model_validate(
        {
            "layout": chosen,
            "trunk_layers": None,
            "steps": options.steps,
            "seq_len": options.seq_len,
            "batch_tokens": options.batch_tokens,
            "lr": options.lr,
            "trunk_lr": options.lr,
            "eval_every": 0,
            "save_every": options.steps,
            "prefetch": 0,
        }
    )
    started = time.perf_counter()
    result = train(given, [options.corpus], locate(options.trunk).path, out, lambda line: None)
    took = time.perf_counter() - started
    report = evaluate(result.checkpoint, options.corpus)
    units = report.streams["units"]
    heard_s = json.loads((result.checkpoint / "progress.json").read_text())["audio_s"]
    return [
        layout,
        str(size or "none"),
        f"{units.labels / report.audio_s:.1f}",
        f"{units.loss:.3f}",
        f"{units.loss * units.labels / report.audio_s:.1f}",
        f"{heard_s / 60:.0f}",
        f"{took:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--trunk", default="stories15m", help="a name or a folder")
    parser.add_argument("--layouts", default="units,units:frames,spirit-lm")
    parser.add_argument("--sizes", default="0,1000,2000,4000", help="tokens; 0 is without merges")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--work", default="unit-bpe-runs")
    options = parser.parse_args()
    print(machine("torch", "tokenizers"), flush=True)
    head = [
        "layout",
        "tokens",
        "labels/s",
        "nats a label",
        "nats/s of held-out speech",
        "minutes heard",
        "s of training",
    ]
    rows = []
    for layout in options.layouts.split(","):
        for size in map(int, options.sizes.split(",")):
            rows.append(run(options, layout, size))
            print(rows[-1], flush=True)
    print(table(head, rows))


if __name__ == "__main__":
    main()
