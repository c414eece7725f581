"""Fit the TASTE tokenizer: its codes are what helps a small speech decoder to predict the units of the utterance.

Three stages, as in the original recipe: the decoder on text alone; text and word vectors, not yet quantised; text and codes.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch

from schemas import Utterance
from transforms.taste import examples as ex
from transforms.taste.model import TasteTokenizer, save
from transforms.taste.options import FitTasteOptions
from transforms.taste.trainer import Mode, Pass, Scores, Trainer, codes_in_use

NAME = "antiphon-taste"


def fit_taste(utterances: Iterable[Utterance], options: FitTasteOptions, say: Callable[[str], None]) -> Path:
    """Fit a tokenizer on utterances that have text and units, write it and its decoder, and return the tokenizer's path.

    `utterance.given["speaker"]`, where it is there, decides who is held out; otherwise the source does.

    Raises:
        ValueError: an utterance without units, fewer than two speakers, or too few words for a codebook.
    """
    from transforms.whisper_model import load_whisper

    whisper = load_whisper(options.recogniser)
    # Initial weights and dropout draw from torch's own generator: seeded here, and given back as it was.
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = TasteTokenizer(
            whisper,
            layers=options.layers,
            value_layer=options.value_layer,
            levels=options.levels,
            size=options.size,
            code_dim=options.code_dim,
        )
        return fit(model, ex.build(utterances, model, options.language, say), options, say)


def fit(
    model: TasteTokenizer, examples: list[ex.Example], options: FitTasteOptions, say: Callable[[str], None]
) -> Path:
    """`fit_taste` on examples whose encoder states are already there."""
    train, heldout = ex.split(examples, options.heldout_share)
    per_token = sum(len(e.units) for e in train) / sum(len(e.tokens.ids) for e in train)
    trainer = Trainer(model, options, round(per_token, 2))
    say(f"{len(train)} utterances to fit on, {len(heldout)} held out, {per_token:.1f} units a text token")
    stream = ex.endless(train, options.batch, trainer.generator)
    steps = {"text": options.steps_text, "plain": options.steps_plain, "quantised": options.steps_quantised}
    figures: dict[str, Any] = {"utterances": len(train), "heldout_utterances": len(heldout)}
    started, before, total = time.perf_counter(), 0, sum(steps.values())
    for mode in get_args(Mode):
        if not steps[mode]:
            continue
        if mode == "quantised":
            trainer.start_quantiser(train)
        for step, line in _run(trainer, stream, mode, steps[mode]):
            done = before + step
            left_s = (time.perf_counter() - started) / done * (total - done)
            say(f"{mode} {done}/{total} {line} eta {left_s / 60:.1f} min")
        before += steps[mode]
        figures[mode] = trainer.evaluate(heldout, mode)
        say(f"held out, {mode}: {figures[mode]}")
    return _write(trainer, figures)


def _run(trainer: Trainer, stream: Iterator[ex.Batch], mode: Mode, steps: int) -> Iterator[tuple[int, str]]:
    """Run one stage; every `log_every` steps give the step and a line with the means since the last one."""
    passes: list[Pass] = []
    for step in range(1, steps + 1):
        passes.append(trainer.step(next(stream), mode))
        if step % trainer.options.log_every == 0 or step == steps:
            loss = sum(float(p.loss) for p in passes) / len(passes)
            accuracy = sum((p.scores for p in passes), Scores()).figures()["top1"]
            used = f" codes in use {codes_in_use(passes, trainer.options.size)}" if mode == "quantised" else ""
            yield step, f"loss {loss:.3f} unit accuracy {accuracy:.3f}{used}"
            passes = []


def _write(trainer: Trainer, figures: dict[str, Any]) -> Path:
    options, model = trainer.options, trainer.model
    card = {
        "base": {"name": options.recogniser, "parameters_sha256": model.base_sha256},
        "shape": model.shape,
        "data": options.data,
        "figures": figures,
        "options": options.model_dump(mode="json", exclude={"folder", "data", "log_every"}),
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    decoder = dict(trainer.decoder.named_parameters())
    shape = {"n_units": options.n_units, "units_per_token": trainer.decoder.units_per_token}
    save(options.folder / f"{NAME}-decoder.safetensors", decoder, card | {"decoder": shape})
    path = options.folder / f"{NAME}.safetensors"
    save(path, model.fitted(), card)
    return path
