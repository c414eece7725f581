"""The trainer: against Hugging Face's, the loader alone, model FLOPs utilisation, and held-out curves of several layouts.

python -m benchmarks.training compare CORPUS --trunk FOLDER     tokens/s, same model, rows and steps, in turns
python -m benchmarks.training loader CORPUS --trunk FOLDER      tokens/s of the loader alone, and padding
python -m benchmarks.training mfu --size 1b --device cuda       MFU on a random trunk; --size tiny tries it on a CPU
python -m benchmarks.training curves CORPUS --trunk FOLDER --layouts taste,codec --out docs/images/layouts.png
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import SequentialSampler

from benchmarks.common import machine, table
from training.checkpoint import build
from training.layouts import make
from training.loader import Loader, Position, open_corpora
from training.model import HybridLM, load_trunk
from training.options import TrainOptions
from training.packing import Batch, Piece, collate
from training.products import through_onednn
from training.text import load_text
from training.train import make_optimizer, train

WARM = 2
"""Steps that `compare` does not count."""

SIZES = {"tiny": (64, 2, 4, 176, 1000), "1b": (2048, 16, 32, 8192, 128256)}
"""Width, layers, heads, inner width, vocabulary; 1b is the shape of Llama-3.2-1B."""


def settings(options: argparse.Namespace) -> TrainOptions:
    return TrainOptions.model_validate(
        {
            "layout": {"name": options.layout},
            "seq_len": options.seq_len,
            "batch_tokens": options.batch_tokens,
            "trunk_layers": options.layers,
            "trunk": str(options.trunk),
            "precision": options.precision,
        }
    )


def opened(options: argparse.Namespace) -> tuple[Loader, TrainOptions]:
    given = settings(options)
    corpora, cards = open_corpora([options.corpus], given)
    text = load_text(options.trunk)
    return Loader(corpora, make(given.layout, text.vocabulary, cards), text, given), given


def compare(options: argparse.Namespace) -> None:
    """The ways in turns: one padded row an utterance in HF Trainer, packed rows in HF Trainer, and ours.

    The packed batches of HF Trainer are those that our loader gives ours; the padded ones hold the same training rows in another
    order, as many an update as fill `batch_tokens` in the mean, as long as the longest of them. All take as many steps; tokens are
    filled positions. The first `WARM` steps count for none, so that start-up is left out, and compiling with it. `--precision` and
    `--compile` are both sides' (HF Trainer's own flags).
    `--products` adds HF Trainer with the linear maps of `training/products.py`.
    """
    loader, given = opened(options)
    n_steps = WARM + options.steps
    packed = [batch for batch, _ in islice(loader.train(Position()), n_steps)]
    alone, n = padded_batches(loader, given, n_steps)

    def theirs(batches: list[Batch], compiled: bool = False, products: bool = False) -> list[tuple[float, float]]:
        model = build(load_trunk(options.trunk, options.layers), loader.layout, given)
        if products:
            through_onednn(model)
        make_optimizer(model, given)  # freezes the same weights
        return hf_trainer(model, batches, given, compiled)

    def ours(compiled: bool = False) -> list[tuple[float, float]]:
        ends = []

        def say(line: str) -> None:
            if line.startswith("step "):
                ends.append((time.perf_counter(), time.process_time()))

        with tempfile.TemporaryDirectory() as folder:
            changes = {"steps": n_steps, "eval_every": 0, "save_every": 10**6, "log_every": 1, "compile": compiled}
            train(given.model_copy(update=changes), [options.corpus], options.trunk, Path(folder), say)
        return ends

    ways: dict[str, Callable[[], list[tuple[float, float]]]] = {
        "HF Trainer, padded": lambda: theirs(alone),
        "HF Trainer, packed": lambda: theirs(packed),
        "antiphon": ours,
    }
    if options.products:
        ways["HF Trainer, packed, our products"] = lambda: theirs(packed, products=True)
    if options.compile:
        ways["HF Trainer, packed, torch_compile"] = lambda: theirs(packed, compiled=True)
        ways["antiphon, compile"] = lambda: ours(compiled=True)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            ends = way()
            tokens = sum(b.n_positions for b in (alone if "padded" in name else packed)[WARM:])
            wall, cpu = (ends[-1][i] - ends[WARM - 1][i] for i in (0, 1))
            found[name].append((tokens / wall, tokens / cpu))
            print(f"  {name}: {tokens / wall:.0f} tokens/s, {tokens / cpu:.0f} a second of processor", flush=True)
    middle = {name: np.median(values, axis=0) for name, values in found.items()}
    rows = []
    for name, (wall, cpu) in middle.items():
        walls = [w for w, _ in found[name]]
        times = middle["antiphon"] / middle[name]
        rows.append(
            [
                name,
                f"{wall:.0f}",
                f"{min(walls):.0f} {max(walls):.0f}",
                f"{times[0]:.2f}",
                f"{cpu:.0f}",
                f"{times[1]:.2f}",
            ]
        )
    head = ["way", "tokens/s", "lowest, highest", "antiphon is times as fast", "tokens a CPU second", "times"]
    print(table(head, rows))
    counts = [f"{sum(b.n_positions for b in batches[WARM:])}" for batches in (alone, packed)]
    filled = sum(b.n_positions for b in alone) / sum(b.documents.size for b in alone)
    print(
        f"{options.precision}, {torch.get_num_threads()} threads, {options.steps} steps after {WARM}, median of {options.repeats}; "
        f"tokens padded {counts[0]}, packed {counts[1]}; padded batches of {n} rows are {1 - filled:.1%} padding"
    )


def padded_batches(loader: Loader, given: TrainOptions, n_steps: int) -> tuple[list[Batch], int]:
    """Batches of one utterance a row, filled up to the longest, and how many rows they have."""
    sequences = [s for s in loader.sequences(range(loader.n_shards), "train") if len(s.inputs) <= given.seq_len]
    n = max(1, round(given.batch_tokens / float(np.mean([len(s.inputs) for s in sequences]))))
    random = np.random.default_rng(0)
    order = np.concatenate([random.permutation(len(sequences)) for _ in range(-(-n * n_steps // len(sequences)))])
    groups = [[sequences[i] for i in order[k * n : (k + 1) * n]] for k in range(n_steps)]
    whole = [[[Piece(s, 0, len(s.inputs))] for s in group] for group in groups]
    return [collate(rows, max(len(row[0]) for row in rows)) for rows in whole], n


def hf_trainer(model: HybridLM, batches: list[Batch], given: TrainOptions, compiled: bool) -> list[tuple[float, float]]:
    """HF Trainer over the batches in their order: time and processor time at the end of each step."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        """When each step ended."""

        def __init__(self) -> None:
            self.ends: list[tuple[float, float]] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append((time.perf_counter(), time.process_time()))

    class Wrapped(torch.nn.Module):
        """What HF Trainer takes: keyword arguments in, a loss out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Batch) -> dict[str, Any]:
            return {"loss": self.model(batch)[0]}

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            max_steps=len(batches),
            save_strategy="no",
            report_to=[],
            logging_steps=10,
            disable_tqdm=True,
            use_cpu=True,
            bf16=given.precision == "bf16",
            torch_compile=compiled,
            learning_rate=given.lr,
            remove_unused_columns=False,
        )
        trainer = Trainer(
            Wrapped(),
            arguments,
            train_dataset=batches,
            data_collator=lambda b: {"batch": b[0]},
            callbacks=[clock],
        )
        # In the order given: which batches the warm steps take is the same each time.
        trainer._get_train_sampler = lambda *_: SequentialSampler(batches)
        trainer.train()
    return clock.ends


def feed(options: argparse.Namespace) -> None:
    loader, _ = opened(options)
    counted, size, audio_s = 0, 0, 0.0
    started = time.perf_counter()
    for batch, place in loader.train(Position()):
        if place.epoch:
            break
        counted, size, audio_s = counted + batch.n_positions, size + batch.documents.size, audio_s + batch.audio_s
    seconds = time.perf_counter() - started
    print(
        f"first pass: {counted} tokens, {audio_s:.0f} s of sound in {seconds:.2f} s: {counted / seconds:.0f} tokens/s"
    )
    print(f"padding {1 - counted / size:.2%}")


def mfu(options: argparse.Namespace) -> None:
    """Steps on random ids, documents of 100 to 400 positions packed: what the step's own log line says of a long run."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from training.flops import Flops, peak_flops
    from training.layouts.base import Row

    width, layers, heads, inner, vocabulary = SIZES[options.size]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 4),
        intermediate_size=inner,
        tie_word_embeddings=True,
    )
    device = torch.device(options.device)
    rows = (
        Row("text", vocabulary, ("pad", "epad", "bos", "eos")),
        *(Row(f"codec_{k}", 2048, ("pad",)) for k in range(8)),
    )
    with device:
        trunk = LlamaForCausalLM(config)
    model = HybridLM(trunk, rows, 1.0, 1.0).to(device)
    if device.type == "cuda":
        model.trunk.set_attn_implementation("flex_attention")
    if options.compile:
        for layer in model.trunk.get_decoder().layers:
            layer.compile()
    optimizer = make_optimizer(model, TrainOptions(train_text_embeddings=True))
    random = np.random.default_rng(0)
    shape = (max(1, options.batch_tokens // options.seq_len), options.seq_len)
    inputs = np.stack([random.integers(0, row.size, shape) for row in rows], axis=-1)
    quiet = random.random(shape) < 0.65  # Moshi's share of PAD in the text row
    inputs[..., 0][quiet] = rows[0].special("pad")
    documents = np.stack(
        [np.repeat(np.arange(200), random.integers(100, 400, 200))[: shape[1]] for _ in range(shape[0])]
    )
    labels = np.roll(inputs, -1, axis=1)
    positions = np.stack([np.arange(shape[1]) - np.searchsorted(d, d) for d in documents])
    weights = np.ones(inputs.shape, np.float32)
    batch = Batch(inputs, labels, weights, documents, positions, [], 0.0)
    flops, peak = Flops(model).step(batch), peak_flops(device)
    times = []
    for _ in range(options.steps):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, _ = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        times.append(time.perf_counter() - started)
    seconds = float(np.median(times[len(times) // 2 :]))
    share = f"MFU {flops / seconds / peak:.1%}" if peak else "no peak known for this device"
    print(f"{batch.n_positions / seconds:.0f} tokens/s, {flops / seconds / 1e12:.2f} TFLOP/s, {share}")
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on {torch.cuda.get_device_name()}")


def curves(options: argparse.Namespace) -> None:
    """Train each layout and draw its held-out losses by stream."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = options.layouts.split(",")
    _, panels = pyplot.subplots(1, len(names), figsize=(4.2 * len(names), 3.4), squeeze=False)
    for name, panel in zip(names, panels[0], strict=True):
        given = settings(argparse.Namespace(**(vars(options) | {"layout": name})))
        every = max(1, options.steps // 8)
        out = Path(options.work) / name
        run = given.model_copy(update={"steps": options.steps, "eval_every": every, "save_every": every})
        train(run, [options.corpus], options.trunk, out)
        entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        reports = [entry["heldout"] for entry in entries if "heldout" in entry]
        for stream in reports[0]["streams"]:
            panel.plot([r["step"] for r in reports], [r["streams"][stream]["loss"] for r in reports], label=stream)
        panel.set(title=f"layout {name}", xlabel="step", ylabel="held-out loss, nats")
        panel.legend(fontsize=7)
    pyplot.tight_layout()
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    pyplot.savefig(options.out, dpi=110)
    print(f"drawn in {options.out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("compare", "loader", "mfu", "curves"):
        p = commands.add_parser(name)
        p.add_argument("--seq-len", type=int, default=256)
        p.add_argument("--batch-tokens", type=int, default=1024)
        p.add_argument("--steps", type=int, default=20)
        if name == "mfu":
            p.add_argument("--size", choices=sorted(SIZES), default="tiny")
            p.add_argument("--device", default="cpu")
            p.add_argument("--compile", action="store_true")
            continue
        p.add_argument("corpus")
        p.add_argument("--trunk", type=Path, required=True)
        p.add_argument("--layers", type=int, default=None)
        p.add_argument("--layout", default="taste")
        p.add_argument("--precision", choices=("float32", "bf16"), default="float32")
        if name == "compare":
            p.add_argument("--compile", action="store_true")
            p.add_argument("--products", action="store_true")
        p.add_argument("--repeats", type=int, default=3)
        if name == "curves":
            p.add_argument("--layouts", default="taste,codec")
            p.add_argument("--out", default="docs/images/layouts.png")
            p.add_argument("--work", default="layout-runs")
    options = parser.parse_args()
    print(machine("torch", "transformers"))
    {"compare": compare, "loader": feed, "mfu": mfu, "curves": curves}[options.command](options)


if __name__ == "__main__":
    main()
