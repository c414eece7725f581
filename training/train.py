"""The training loop, top to bottom.

What it promises: the order of the data depends on the seed and the step alone; a run that was stopped (SIGTERM, SIGINT, or
killed and set back to its last checkpoint) goes on as if it had not been, to the bit on a CPU with the same number of threads;
checkpoints are complete or not there; a loss that is not a number stops the run and names the rows.

A *token*, in `tokens/s` and in the options, is one position of a packed sequence, whatever its rows hold.
"""

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
from training.checkpoint import Checkpoint, build, load, load_state, newest, save, sweep
from training.dpo import DpoTask
from training.evaluate import held_out_losses
from training.layouts import make
from training.loader import Loader, Position, check_cards, open_corpora
from training.log import Log, StepLog, heldout_line, step_line
from training.model import HybridLM, load_trunk
from training.options import TrainOptions
from training.text import load_text

FREE = frozenset({"steps", "log_every", "eval_every", "save_every", "keep", "device", "threads", "damaged"})
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
    device = torch.device(options.device)

    # ---- data, model, optimizer: new, or as the last checkpoint left them
    if options.dpo and corpora:
        raise UserError("train.dpo learns preferences and no corpus: leave it out, or use `antiphon dpo`")
    task = DpoTask(options, options.dpo) if options.dpo else None
    opened, cards = ([], task.cards) if task else open_corpora(corpora, options)
    fingerprints = task.fingerprints if task else tuple(corpus.fingerprint for corpus in opened)
    sweep(out)
    last = newest(out)
    begin = task.begin if task else lambda: _begin(options, cards, trunk)
    run = _resume(last, options, cards, say) if last else begin()
    if run.progress.corpora not in ((), fingerprints):
        warnings.warn(
            f"the corpora changed since {last}: going on with the next pass over what they hold now", stacklevel=2
        )
        run.progress = replace(run.progress, position=Position(run.progress.position.epoch + 1))
    run.progress = replace(run.progress, corpora=fingerprints)
    loader = task.loader() if task else Loader(opened, run.layout, run.text, options)
    model = run.model.to(device).train()
    optimizer = make_optimizer(model, options)
    if last:
        load_state(last, optimizer)
    log = Log(out / "log.jsonl", run.progress.step)
    n_trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    n_all = sum(p.numel() for p in model.parameters())
    say(
        f"layout {run.layout.name}, {len(run.layout.rows)} rows; {n_all / 1e6:.1f} M parameters, {n_trained / 1e6:.1f} M of them "
        f"trained; {options.steps} steps of {loader.batch_rows} x {loader.seq_len} tokens"
    )

    def held_out(step: int) -> None:
        if not options.eval_every:
            return
        report = held_out_losses(model, loader.heldout(), step)
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
    batches = loader.train(run.progress.position)
    path = last
    with _stop_signals() as stopped:
        while step < options.steps:
            started = time.perf_counter()
            batch, position = next(batches)
            factor = lr_factor(step, options)
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            loss, streams = model.loss(batch)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(
                [p for group in optimizer.param_groups for p in group["params"]], options.max_grad_norm
            )
            loss_now, norm_now = loss.item(), norm.item()
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
            )
            log.step(done)
            window.append(done)
            if step % options.log_every == 0 or step == options.steps:
                say(step_line(window, options.steps))
                window = []
            if options.eval_every and step % options.eval_every == 0 and step < options.steps:
                held_out(step)
            if step % options.save_every == 0 or step == options.steps or stopped:
                log.sync()  # a checkpoint never knows of a step that the log does not
                path = save(out, run, optimizer)
            if stopped:
                break

    # ---- the end
    assert path is not None
    if stopped:
        say(f"stopped by {stopped[0].name} after step {step}; saved in {path}; the same command goes on from there")
    else:
        if not log.heldouts() or log.heldouts()[-1]["step"] < step:
            held_out(step)
        share = loader.n_shifted / max(1, loader.n_text)
        say(f"done: {path}; {share:.1%} of the text tokens came later than their words, pushed back by fast speech")
    reports = log.heldouts()
    return Result(path, step, reports[0] if reports else None, reports[-1] if reports else None, bool(stopped))


def _begin(options: TrainOptions, cards: dict[str, Tokenizer], folder: Path) -> Checkpoint:
    text = load_text(folder)
    layout = make(options.layout, text.vocabulary, cards)
    model = build(load_trunk(folder, options.trunk_layers), layout, options)
    return Checkpoint(model, text, layout, cards, options)


def _resume(path: Path, options: TrainOptions, cards: dict[str, Tokenizer], say: Callable[[str], None]) -> Checkpoint:
    run = load(path)
    ours, theirs = run.options.model_dump(mode="json"), options.model_dump(mode="json")
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


def make_optimizer(model: HybridLM, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW over what is trained: the trunk at `trunk_lr`, the rest at `lr`; weight decay on matrices only.

    Freezes the trunk where `trunk_lr` is 0, and its text embedding and head unless `train_text_embeddings`.
    """
    embeddings = {id(m.weight) for m in (model.trunk.get_input_embeddings(), model.trunk.get_output_embeddings())}
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        in_trunk = name.startswith("trunk.")
        lr = options.trunk_lr if in_trunk else options.lr
        frozen = in_trunk and (lr == 0 or (id(parameter) in embeddings and not options.train_text_embeddings))
        parameter.requires_grad_(not frozen)
        if not frozen:
            groups.setdefault((lr, options.weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "lr": lr, "peak_lr": lr, "weight_decay": decay} for (lr, decay), ps in groups.items()],
        betas=(0.9, 0.95),
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
