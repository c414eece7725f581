"""Unit BPE in layouts: how much shorter sequences become, and what a second of held-out speech costs a model trained with it.

python -m benchmarks.unit_bpe CORPUS --layouts units,spirit-lm --sizes 1000,4000 --steps 200

Each way takes as many steps of as many positions, and so hears more speech where sequences are shorter. Nats a second are those of
the row of units, its marks with it: the figure that does not depend on how many tokens a second is cut into. `units:frames` is the
layout `units` with one unit a frame.

With `--steps 0` nothing is trained: what counting says instead, by pairs and by triples of all train rows, each interpolated with
what is shorter (Dirichlet priors, the best of three pairs of weights), in nats a second of the held-out rows.
"""

import argparse
import json
import math
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from benchmarks.common import machine, table
from pipeline.fit_bpe import FitBpeOptions, fit_bpe
from training.bpe import UnitBPE
from training.evaluate import evaluate
from training.options import TrainOptions
from training.reader import Corpus
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


PRIORS = ((5, 2), (20, 5), (100, 20))
"""Weights of the shorter context, for pairs and for triples."""


def counts(corpus: str, merges: UnitBPE | None, n_units: int, rate_hz: float) -> tuple[float, float, float]:
    """Tokens a second, and nats a second by pairs and by triples."""
    rows = {
        split: [
            (row["units"], row["unit_run_lengths"]) for row in Corpus(corpus).rows(split, ("units", "unit_run_lengths"))
        ]
        for split in ("train", "heldout")
    }
    seconds = sum(int(lengths.sum()) for _, lengths in rows["heldout"]) / rate_hz
    said = {
        split: [(units if merges is None else merges.encode(units, lengths).ids).tolist() for units, lengths in found]
        for split, found in rows.items()
    }
    single = np.ones(n_units if merges is None else merges.size)
    after: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for row in said["train"]:
        np.add.at(single, row, 1)
        for i in range(1, len(row)):
            after[row[i - 1],][row[i]] += 1
            after[tuple(row[max(0, i - 2) : i])][row[i]] += i > 1
    single /= single.sum()
    totals = {context: found.total() for context, found in after.items()}

    def smoothed(context: tuple[int, ...], token: int, below: float, prior: float) -> float:
        found = after[context][token] if context in totals else 0
        return (found + prior * below) / (totals.get(context, 0) + prior)

    best = (math.inf, math.inf)
    for prior_pair, prior_triple in PRIORS:
        pairs = triples = 0.0
        for row in said["heldout"]:
            for i, token in enumerate(row):
                p = float(single[token])
                p = smoothed((row[i - 1],), token, p, prior_pair) if i else p
                pairs -= math.log(p)
                p = smoothed((row[i - 2], row[i - 1]), token, p, prior_triple) if i > 1 else p
                triples -= math.log(p)
        best = min(best, (triples / seconds, pairs / seconds))
    return sum(map(len, said["heldout"])) / seconds, best[1], best[0]


def counted(options: argparse.Namespace) -> None:
    """The table of `counts`."""
    card = Corpus(options.corpus).cards["units"]
    rows = []
    for size in map(int, options.sizes.split(",")):
        path = Path(options.work) / f"counted-{size}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if size:
            fit_bpe(options.corpus, FitBpeOptions(path=path, data=options.corpus, size=size))
        merges = UnitBPE.load(path) if size else None
        per_s, pairs, triples = counts(options.corpus, merges, card.sizes[0], card.rate_hz)
        rows.append([size or "none", f"{per_s:.1f}", f"{pairs:.1f}", f"{triples:.1f}"])
    print(table(["tokens", "tokens/s", "nats/s by pairs", "nats/s by triples"], rows))


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
    if not options.steps:
        counted(options)
        return
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
