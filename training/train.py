"""The training loop, top to bottom.

What it promises: the order of the data depends on the seed and the step alone; a run that was stopped (SIGTERM, SIGINT, or
killed and set back to its last checkpoint) goes on as if it had not been, to the bit on a CPU with the same number of threads;
checkpoints are complete or not there; a loss that is not a number stops the run and names the rows. Under torchrun all processes
make the same batches and compute their part of the rows, so that a run goes on with more processes or fewer, on the same batches.

A *token*, in `tokens/s` and in the options, is one position of a packed sequence, whatever its rows hold.
"""

import contextlib
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from schemas import Tokenizer
from schemas.errors import UserError
from training.attention import implementation
from training.bpe import UnitBPE
from training.checkpoint import Checkpoint, build, load, load_state, newest, save, sweep
from training.distributed import Ranks, parallel, ranks, unshared, whole
from training.dpo import DpoTask
from training.evaluate import held_out_losses
from training.flops import Flops, peak_flops
from training.layouts import Layout, make
from training.layouts.merged import MergedLayout
from training.loader import Loader, check_cards, open_corpora
from training.log import Log, StepLog, heldout_line, peak_memory, step_line
from training.lora import is_adapter
from training.losses import StreamLosses
from training.mixing import Mixture, ahead
from training.model import HybridLM, load_trunk
from training.options import GaussianOptions, TrainOptions
from training.packing import Batch
from training.products import suits, through_onednn
from training.reader import Corpus
from training.text import load_text
from training.text_data import TextLoader

FREE = {"steps", "log_every", "eval_every", "save_every", "keep", "device", "threads", "damaged"}
FREE |= {"accumulate", "parallel", "compile", "attention", "products", "prefetch", "track"}
"""Options that may differ from those a checkpoint was made with; all others would change what was already trained."""


class TrainingDiverged(UserError):
    """A loss or gradient that is not a number."""


@dataclass(frozen=True)
class Result:
    """How a run ended: the last checkpoint, its step, the first and last held-out reports (as in `log.jsonl`), and whether a
    signal ended it.
    """

    checkpoint: Path
    step: int
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    interrupted: bool


def train(
    options: TrainOptions,
    corpora: Sequence[str | Path],
    trunk: Path,
    out: Path,
    say: Callable[[str], None] = print,
) -> Result:
    """Train a hybrid LM, or go on with the one in `out`.

    Args:
        corpora: folders. trunk: folder of a Hugging Face causal LM. out: takes `checkpoints/` and `log.jsonl` (one object a
            step, and one a held-out evaluation). say: takes the lines for people.

    Raises UserError where the corpora lack what the layout needs, or do not fit the checkpoint; TrainingDiverged.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    with ranks(options.device) as (here, device):
        return _train(options, corpora, trunk, out, say if here.rank == 0 else _silent, here, device)


def _silent(line: str) -> None:
    """What all processes but the first say."""


def _train(
    options: TrainOptions,
    corpora: Sequence[str | Path],
    trunk: Path,
    out: Path,
    say: Callable[[str], None],
    here: Ranks,
    device: torch.device,
) -> Result:
    # ---- data, model, optimizer: new, or as the last checkpoint left them
    if options.dpo and corpora:
        raise UserError("train.dpo learns preferences and no corpus: leave it out, or use `antiphon dpo`")
    task = DpoTask(options, options.dpo) if options.dpo else None
    opened, cards = ([], task.cards) if task else open_corpora(corpora, options)
    if here.rank == 0:
        sweep(out)
    here.wait()
    last = newest(out)
    begin = task.begin if task else lambda: _begin(options, cards, trunk)
    run = _resume(last, options, cards, say) if last else begin()
    loader, mixture, fingerprints = task.sources() if task else _sources(opened, run, options)
    if run.progress.corpora not in ((), fingerprints):
        warnings.warn(
            f"the corpora changed since {last}: going on with the next pass over what they hold now", stacklevel=3
        )
        run.progress = replace(run.progress, position=run.progress.position.next_pass())
    if run.progress.corpora == ():
        run.progress = replace(run.progress, position=mixture.start())
    run.progress = replace(run.progress, corpora=fingerprints)
    model = run.model = run.model.to(device).train()
    if kind := implementation(options.attention, device, options.compile):
        for lm in (model.trunk, model.base):
            if lm is not None:
                lm.set_attn_implementation(kind)
    if suits(options.products, device):
        through_onednn(model)
    make_trained(model, options)
    # What is called instead of the model; FSDP changes the model in place, so that the optimizer comes after it.
    called = parallel(model, options.parallel, here, device)
    optimizer = make_optimizer(model, options)
    if last:
        load_state(last, optimizer)
    if options.compile:
        for layer in model.trunk.get_decoder().layers:
            layer.compile()
    log = Log(out / "log.jsonl", run.progress.step, options.track if here.rank == 0 else None)
    flops, peak = Flops(model), peak_flops(device)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    n_all = sum(p.numel() for p in model.parameters())
    say(
        f"layout {run.layout.name}, {len(run.layout.rows)} rows; {n_all / 1e6:.1f} M parameters, "
        f"{sum(p.numel() for p in trained) / 1e6:.1f} M of them trained; {options.steps} steps of "
        f"{loader.batch_rows} x {loader.seq_len} tokens" + (f" over {here.size} processes" if here.size > 1 else "")
    )

    def autocast() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16")

    def held_out(step: int) -> None:
        if not options.eval_every:
            return
        with autocast():
            report = held_out_losses(called, loader.heldout(), step, here)
        if report is None:
            say("held out: no row is in the split 'heldout', so nothing is measured; splits go by recording")
            return
        log.heldout(report)
        say(heldout_line(report))

    if run.progress.step == 0:
        held_out(0)
    elif run.progress.step >= options.steps:
        say(f"nothing to do: {last} has done {run.progress.step} of {options.steps} steps")

    # ---- the loop
    window: list[StepLog] = []
    step = run.progress.step
    batches = ahead(mixture.train(run.progress.position), options.prefetch)
    path = last
    stop = False
    with _stop_signals() as stopped, contextlib.closing(batches):
        while step < options.steps:
            started = time.perf_counter()
            batch, position = next(batches)
            waited_s = time.perf_counter() - started
            factor = lr_factor(step, options)
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            loss, streams = _backward(called, batch, options, here, autocast)
            norm = torch.nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
            norm_now = float(whole(norm))
            loss_now, streams, stop = _agree(loss, streams, bool(stopped), here, device)
            if not (math.isfinite(loss_now) and math.isfinite(norm_now)):
                raise TrainingDiverged(
                    f"step {step + 1}: loss {loss_now}, gradient norm {norm_now}, in the batch of rows "
                    f"{', '.join(batch.ids)}; look at them with `antiphon inspect --id`, or lower train.lr; "
                    f"the last checkpoint is {path or 'not yet written'}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            step += 1
            run.progress = replace(
                run.progress,
                step=step,
                position=position,
                tokens=run.progress.tokens + batch.n_positions,
                audio_s=run.progress.audio_s + batch.audio_s,
            )
            done = StepLog(
                step,
                loss_now,
                streams,
                options.lr * factor,
                norm_now,
                batch.n_positions,
                batch.audio_s,
                time.perf_counter() - started,
                waited_s,
                batch.documents.size - batch.n_positions,
                flops.step(batch) / (peak * here.size) if peak else None,
                peak_memory(device),
            )
            log.step(done)
            window.append(done)
            if step % options.log_every == 0 or step == options.steps:
                say(step_line(window, options.steps))
                window = []
            if options.eval_every and step % options.eval_every == 0 and step < options.steps:
                held_out(step)
            # Alone, a signal during this very step counts too; several processes stop where all of them know of it.
            stop = bool(stopped) if here.size == 1 else stop
            if step % options.save_every == 0 or step == options.steps or stop:
                log.sync()  # a checkpoint never knows of a step that the log does not
                path = save(out, run, optimizer, here)
            if stop:
                break

    # ---- the end
    assert path is not None
    if stop:
        name = stopped[0].name if stopped else "a signal to another process"
        say(f"stopped by {name} after step {step}; saved in {path}; the same command goes on from there")
    else:
        # All processes must come to the same answer, and only the first has a log.
        if any(here.sum([float(here.rank == 0 and not log.has_heldout(step))])):
            held_out(step)
        share = loader.n_shifted / max(1, loader.n_text)
        say(f"done: {path}; {share:.1%} of the text tokens came later than their words, pushed back by fast speech")
    log.close()
    reports = log.heldouts()
    return Result(path, step, reports[0] if reports else None, reports[-1] if reports else None, stop)


def _backward(
    called: torch.nn.Module, batch: Batch, options: TrainOptions, here: Ranks, autocast: Callable[[], Any]
) -> tuple[float, StreamLosses]:
    """Gradients of a batch's loss, in parts; this process's share of the loss, and its losses by stream."""
    loss, streams = 0.0, StreamLosses()
    parts = options.accumulate * here.size
    for number in range(options.accumulate):
        own = batch.share(here.rank * options.accumulate + number, parts) if parts > 1 else batch
        with unshared(called, last=number == options.accumulate - 1):
            with autocast():
                part, found = called(own)
            # Processes give the mean of their gradients; the sum is wanted, since each has a share of one loss.
            (part * here.size).backward()
        loss += part.item()
        streams.update(found.by_stream())
    return loss, streams


def _agree(
    loss: float, streams: StreamLosses, stopped: bool, here: Ranks, device: torch.device
) -> tuple[float, StreamLosses, bool]:
    """The loss of the whole batch, its losses by stream, and whether any process was told to stop."""
    if here.size == 1:
        return loss, streams, stopped
    everywhere = streams.summed(here, device)
    loss, told = here.sum([loss, float(stopped)], device)
    return loss, everywhere, told > 0


def _sources(
    opened: Sequence[Corpus], run: Checkpoint, options: TrainOptions
) -> tuple[Loader, Mixture, tuple[str, ...]]:
    """The loader of all corpora, what training takes its batches from, and the fingerprint of each source.

    Raises UserError where `corpus_shares` are not one for each corpus.
    """
    loader = Loader(opened, run.layout, run.text, options)
    texts = [TextLoader(source, run.layout, run.text, options) for source in options.text]
    shares = options.corpus_shares
    if shares is not None and len(shares) != len(opened):
        raise UserError(f"train.corpus_shares gives {len(shares)} shares, and there are {len(opened)} corpora")
    speech = [loader] if shares is None else [Loader([corpus], run.layout, run.text, options) for corpus in opened]
    left = 1 - sum(source.share for source in options.text)
    mixture = Mixture(
        [*speech, *texts],
        [*(share / sum(shares or (1.0,)) * left for share in shares or (1.0,)), *(s.share for s in options.text)],
    )
    return loader, mixture, (*(corpus.fingerprint for corpus in opened), *(text.fingerprint for text in texts))


def _begin(options: TrainOptions, cards: dict[str, Tokenizer], folder: Path) -> Checkpoint:
    text = load_text(folder)
    layout = make(options.layout, text.vocabulary, cards)
    model = build(load_trunk(folder, options.trunk_layers), layout, options)
    if isinstance(options.model.latent, GaussianOptions) and model.gaussian:
        std = float(model.trunk.get_input_embeddings().weight.float().std())
        model.gaussian.load_codebooks(options.model.latent, std)
    return Checkpoint(model, text, layout, cards, options)


def _resume(path: Path, options: TrainOptions, cards: dict[str, Tokenizer], say: Callable[[str], None]) -> Checkpoint:
    run = load(path)
    ours, theirs = run.options.model_dump(mode="json"), options.model_dump(mode="json")
    if merges_again(run.layout, options):
        theirs["layout"]["bpe"] = ours["layout"]["bpe"]
    changed = [
        f"{name}: {ours[name]} there, {theirs[name]} now"
        for name in ours
        if ours[name] != theirs[name] and name not in FREE
    ]
    if changed:
        raise UserError(
            f"{path} was trained with other options ({'; '.join(changed)}): give another --out folder, or those"
        )
    check_cards(run.layout, run.cards, cards, path)
    say(f"going on from {path}, step {run.progress.step}")
    run.options = options
    return run


def merges_again(layout: Layout, options: TrainOptions) -> bool:
    """Whether the options ask for the merges of units that a checkpoint's layout has, wherever their file lies now, or whether
    it is there at all. Raises UserError for other merges; DPO has those of its policy.
    """
    path = getattr(options.layout, "bpe", None)
    if not isinstance(layout, MergedLayout) or not path:
        return False
    if not options.dpo and Path(path).exists() and UnitBPE.load(Path(path)).sha256 != layout.bpe.sha256:
        raise UserError(
            f"{path} is not the file of merges that the checkpoint was trained with: give another --out folder"
        )
    return True


def make_trained(model: HybridLM, options: TrainOptions) -> dict[str, float]:
    """Freeze what is not trained, and give the peak learning rate of every parameter that is, by name.

    The trunk is frozen where `trunk_lr` is 0 or there are adapters, and its text embedding and head unless
    `train_text_embeddings`. What is added is trained at `lr`, the trunk or its adapters at `trunk_lr`.
    """
    embeddings = {id(m.weight) for m in (model.trunk.get_input_embeddings(), model.trunk.get_output_embeddings())}
    rates = {}
    for name, parameter in model.named_parameters():
        frozen, rate = name.startswith("base."), options.lr
        if name.startswith("trunk."):
            rate = options.trunk_lr
            if id(parameter) in embeddings:
                frozen = not options.train_text_embeddings or rate == 0
            else:
                frozen = rate == 0 or (options.model.lora is not None and not is_adapter(name))
        parameter.requires_grad_(not frozen)
        if not frozen:
            rates[name] = rate
    return rates


def make_optimizer(model: HybridLM, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW over what is trained (`make_trained`); weight decay on matrices only."""
    rates = make_trained(model, options)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name in rates:
            decay = options.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((rates[name], decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), ps in groups.items()],
        betas=(0.9, 0.95),
        fused=True,
    )


def lr_factor(step: int, options: TrainOptions) -> float:
    """The share of the peak learning rate at a 0-based step."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    if options.schedule == "cosine":
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))
    if options.schedule == "wsd":
        return min(1.0, max(0.0, (1 - done) / 0.2))
    return 1.0


@contextmanager
def _stop_signals() -> Iterator[list[signal.Signals]]:
    """A list that SIGTERM and SIGINT append themselves to, instead of ending the process; a second one ends it at once."""
    caught: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # Python sets signal handlers in the main thread only.
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def catch(number: int, _: Any) -> None:
        caught.append(signal.Signals(number))
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
