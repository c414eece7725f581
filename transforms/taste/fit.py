"""Fit the TASTE tokenizer: its codes are what helps a small speech decoder to predict the units of the utterance.

Three stages, as in the original recipe: the decoder on text alone; text and word vectors, not yet quantised; text and codes.
"""

import copy
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch.nn import functional as F

from schemas import Utterance
from transforms.taste import examples as ex
from transforms.taste import progress
from transforms.taste.model import TasteTokenizer, save
from transforms.taste.options import FitTasteOptions
from transforms.taste.trainer import Mode, Pass, Scores, Trainer, codes_in_use
from transforms.weights.find import hash_path

NAME = "antiphon-taste"
DECODER = f"{NAME}-decoder"


def fit_taste(utterances: Iterable[Utterance], options: FitTasteOptions, say: Callable[[str], None]) -> Path:
    """Fit a tokenizer on utterances that have text, word times and units; write it and its decoder; return the tokenizer's path.

    `utterance.given["speaker"]`, where it is there, decides who is held out; otherwise the source does.

    Killed and called again with the same, it goes on from its last checkpoint and ends with the same bytes (on the same
    machine and number of threads).

    Raises:
        ValueError: an utterance without units, fewer than two speakers, too few words for a codebook, or a checkpoint in the
            folder that is of another fit.
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
            timed=options.timed,
            levels=options.levels,
            size=options.size,
            code_dim=options.code_dim,
            decay=options.decay,
            dropout=options.code_dropout,
        )
        return fit(model, ex.build(utterances, model, options.language, voice(options.speaker), say), options, say)


def voice(name: str | None) -> ex.Voice:
    """What gives an utterance's speaker embedding: its own where the corpus has one, else the encoder called `name`.

    Without a name all zeros, `[1]`. Raises MissingWeights.
    """
    if name is None:
        return lambda utterance: np.zeros(1, dtype=np.float32)
    from transforms.taste.voice import VoiceEncoder

    return VoiceEncoder(name)


def fit(
    model: TasteTokenizer, examples: list[ex.Example], options: FitTasteOptions, say: Callable[[str], None]
) -> Path:
    """`fit_taste` on examples whose encoder states are already there."""
    if options.decoder == "compact":
        examples = ex.timed(examples, options.n_units, say)
    train, heldout = ex.split(examples, options.heldout_share)
    trainer = Trainer(model, options, len(train[0].voice))
    trainer.decoder.voice.copy_(F.normalize(torch.stack([e.voice for e in train]).mean(0), dim=0))
    say(f"{len(train)} utterances to fit on, {len(heldout)} held out")
    figures: dict[str, Any] = {"utterances": len(train), "heldout_utterances": len(heldout)}
    path = options.folder / f"{NAME}.fit"
    identity = progress.identity(options, examples, model.base_sha256)
    state = progress.read(path, identity)
    done, best = 0, None
    if state:
        trainer.restore(state)
        done, figures, best = state["step"], state["figures"], state["best"]
        say(f"going on after step {done}")
    draws = ex.Draws(train, options.batch, options.seed)
    modes = schedule(options)
    lines = _Lines(len(modes), done, options, say)
    for step in range(done, len(modes)):
        mode = modes[step]
        if mode == "quantised" and (step == 0 or modes[step - 1] != mode):
            trainer.start_quantiser(train)
        lines.add(step + 1, mode, trainer.step(draws[step], mode))
        ends = step + 1 == len(modes) or modes[step + 1] != mode
        looks = mode == "quantised" and options.evaluate_every and is_look(step, len(modes), options)
        scored = trainer.evaluate(heldout, mode) if ends or looks else {}
        if ends:
            figures[mode] = scored
            say(f"held out, {mode}: {scored}")
        if looks:
            best = better(best, trainer, step + 1, scored, say)
        if (step + 1) % options.save_every == 0 or step + 1 == len(modes):
            progress.write(
                path, {"identity": identity, "step": step + 1, "figures": figures, "best": best, **trainer.state()}
            )
    if best:
        trainer.restore_weights(best["weights"])
        figures["quantised"] = best["figures"] | {"step": best["step"]}
        say(f"kept step {best['step']}, which did best on what was held out: {best['figures']}")
    # The same decoder, reading from the text alone: what the codes add.
    figures["text"] = trainer.evaluate(heldout, "text")
    say(f"held out, text alone at the end: {figures['text']}")
    written = _write(trainer, figures)
    path.unlink(missing_ok=True)
    return written


def schedule(options: FitTasteOptions) -> list[Mode]:
    """The stage of each step."""
    steps = {"text": options.steps_text, "plain": options.steps_plain, "quantised": options.steps_quantised}
    return [mode for mode in get_args(Mode) for _ in range(steps[mode])]


def is_look(step: int, total: int, options: FitTasteOptions) -> bool:
    """Whether the speakers kept out are looked at after this step: every `evaluate_every` steps with codes, and the last."""
    coded = step + 1 - options.steps_text - options.steps_plain
    return coded % options.evaluate_every == 0 or step + 1 == total


def better(
    best: dict[str, Any] | None, trainer: Trainer, step: int, figures: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """What is kept: the weights after this step if its loss is lower than the best's, else the best."""
    say(f"held out after step {step}: {figures}")
    if best and best["figures"]["loss"] <= figures["loss"]:
        return best
    return {"step": step, "figures": figures, "weights": copy.deepcopy(trainer.weights())}


class _Lines:
    """Every `log_every` steps, and at the end of a stage's last step, a line with the means since the last one."""

    def __init__(self, total: int, done: int, options: FitTasteOptions, say: Callable[[str], None]) -> None:
        self.total, self.begun, self.options, self.say = total, done, options, say
        self.started = time.perf_counter()
        self.passes: list[Pass] = []
        self.mode: Mode = "text"

    def add(self, step: int, mode: Mode, result: Pass) -> None:
        if mode != self.mode:
            self.mode, self.passes = mode, []
        self.passes.append(result)
        if step % self.options.log_every and step != self.total:
            return
        loss = sum(float(p.loss) for p in self.passes) / len(self.passes)
        accuracy = sum((p.scores for p in self.passes), Scores()).figures()["top1"]
        used = ""
        if mode == "quantised":
            commitment = sum(float(p.commitment) for p in self.passes) / len(self.passes)
            used = f" commitment {commitment:.2f} codes in use {codes_in_use(self.passes, self.options.size)}"
        left_s = (time.perf_counter() - self.started) / (step - self.begun) * (self.total - step)
        self.say(
            f"{mode} {step}/{self.total} loss {loss:.3f} unit accuracy {accuracy:.3f}{used} eta {left_s / 60:.1f} min"
        )
        self.passes = []


def _write(trainer: Trainer, figures: dict[str, Any]) -> Path:
    options, model = trainer.options, trainer.model
    card = {
        "base": {"name": options.recogniser, "parameters_sha256": model.base_sha256},
        "shape": model.shape,
        "data": options.data,
        "figures": figures,
        "options": options.model_dump(mode="json", exclude={"folder", "data", "log_every", "save_every"}),
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"{NAME}.safetensors"
    save(path, model.fitted(), card)
    save(
        options.folder / f"{DECODER}.safetensors",
        trainer.decoder.state_dict(),
        card | {"decoder": trainer.decoding.shape, "tokenizer_sha256": hash_path(path)},
    )
    return path
