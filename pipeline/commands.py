"""What each command does, once its arguments are parsed. Each imports what it needs, and no more."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from schemas.errors import UserError
from schemas.show import show


def run(args: argparse.Namespace) -> int:
    """Run the parsed command and return its exit code. Raises UserError for what a person can mend."""
    if args.beam:
        from pipeline import files

        files.set_beam_args(args.beam)
    return COMMANDS[args.command](args)


def doctor(args: argparse.Namespace) -> int:
    from pipeline.doctor import run_doctor

    return run_doctor()


def pull(args: argparse.Namespace) -> int:
    from pipeline.weights import run_pull

    return run_pull(args.names, check=args.check, say=lambda line: print(show(line)))


def config(args: argparse.Namespace) -> int:
    from pipeline.config import Config, help_text

    if args.section in OPTIONS:
        print(help_text(OPTIONS[args.section]()).strip("\n"))
        return 0
    text = help_text(Config)
    if args.section:
        if args.section not in Config.model_fields:
            names = ", ".join([*Config.model_fields, *OPTIONS])
            raise UserError(f"no section {args.section!r}; there are {names}")
        lines = text.splitlines()
        wanted = (f"{args.section}:", f"{args.section}.", f"  {args.section}.", f"  {args.section} =")
        keep = False
        picked = []
        for line in lines:
            keep = line.startswith(wanted) or (keep and line.startswith("      "))
            picked += [line] if keep else []
        text = "\n".join(picked)
    print(text.strip("\n"))
    return 0


def tokenizers(args: argparse.Namespace) -> int:
    from pipeline.tokenizers import listing

    print(listing())
    return 0


def convert(args: argparse.Namespace) -> int:
    from pipeline.convert import run_convert

    normalize = None if args.normalize is None else args.normalize == "true"
    return run_convert(args.file, args.out, args.preset, args.model, args.layer, normalize)


def plan(args: argparse.Namespace) -> int:
    from pipeline.config import load
    from pipeline.plan import write_plan
    from pipeline.prepare import plan_of

    print(write_plan(plan_of(load(args.config, args.assignments))), end="")
    return 0


def prepare(args: argparse.Namespace) -> int:
    from pipeline.config import load
    from pipeline.prepare import plan_of, stages_of
    from pipeline.prepare import prepare as make

    settings = load(args.config, args.assignments)
    blocks = plan_of(settings)
    stages = stages_of(settings)
    if args.dry_run:
        return _dry_run(settings, blocks, stages)
    summary = make(settings, blocks, stages, args.out, part=args.blocks, beam_args=args.beam)
    return _finish(settings, blocks, summary, args)


def dialogues(args: argparse.Namespace) -> int:
    from pipeline.config import load
    from pipeline.dialogues import plan_dialogues
    from pipeline.prepare import dialogue_stages_of
    from pipeline.prepare import prepare as make

    settings = load(args.config, args.assignments)
    blocks = plan_dialogues(
        settings.dialogues, rate_hz=settings.decode.rate_hz, heldout_share=settings.plan.heldout_share
    )
    stages = dialogue_stages_of(settings)
    summary = make(settings, blocks, stages, args.out, part=args.blocks, beam_args=args.beam)
    return _finish(settings, blocks, summary, args)


def retry(args: argparse.Namespace) -> int:
    from pipeline.config import load
    from pipeline.prepare import RETRIABLE, blocks_to_retry, plan_of, stages_of
    from pipeline.prepare import prepare as make
    from pipeline.store import Store
    from schemas import Reason

    settings = load(args.config, args.assignments)
    unknown = sorted(set(args.reason) - {reason.value for reason in Reason})
    if unknown:
        raise UserError(f"no reason {unknown[0]!r}; there are {', '.join(r.value for r in Reason)}")
    again = blocks_to_retry(Store(args.out), args.reason or [reason.value for reason in RETRIABLE])
    print(f"{len(again)} blocks to make again", file=sys.stderr)
    blocks, stages = plan_of(settings), stages_of(settings)
    summary = make(settings, blocks, stages, args.out, redo=lambda b: b.name in again, beam_args=args.beam)
    return _finish(settings, blocks, summary, args)


def _dry_run(settings: Any, blocks: list[Any], stages: list[Any]) -> int:
    from pipeline.weights import describe_needed

    pieces = [piece for block in blocks for piece in block.pieces]
    seconds = sum(piece.declared_s for piece in pieces)
    print(f"{len({piece.uri for piece in pieces})} files, {len(pieces)} pieces, {len(blocks)} blocks")
    print(f"{seconds / 3600:.2f} h of audio by the headers")
    print(f"written as {', '.join(settings.write.formats)}")
    print("stages: " + " > ".join(stage.name for stage in stages))
    for line in describe_needed(stages):
        print(line)
    return 0


def _finish(settings: Any, blocks: list[Any], summary: Any, args: argparse.Namespace) -> int:
    from pipeline.limits import examples, excesses
    from pipeline.status import describe
    from pipeline.store import Store

    print(describe(summary))
    print(f"corpus: {show(args.out)}")
    past = excesses(summary, sum(len(block.pieces) for block in blocks), settings.limits)
    if summary.done < summary.blocks or not past:
        return 0
    lines = [*past, *(f"  {line}" for line in examples(Store(args.out), summary))]
    lines.append(f"`antiphon inspect {args.out} --rejected` shows all of them")
    sys.stdout.flush()
    print(f"antiphon {args.command}: " + "\n".join(lines), file=sys.stderr)
    return 1


def status(args: argparse.Namespace) -> int:
    from pipeline.status import run_status

    return run_status(args.corpus, as_json=args.json)


def verify(args: argparse.Namespace) -> int:
    from pipeline.verify import run_verify

    return run_verify(args.corpus, forget=args.forget)


def inspect(args: argparse.Namespace) -> int:
    from pipeline.inspect import run_inspect, run_layout

    if args.layout:
        return run_layout(
            args.corpus, args.layout, args.assignments, args.trunk, args.id, args.rows, args.steps, args.first
        )
    return run_inspect(args.corpus, row_id=args.id, rows=args.rows, rejected=args.rejected, wav=args.wav)


def fit(args: argparse.Namespace) -> int:
    from pipeline.fit import run_fit

    return run_fit(args.what, args.corpus, args.out, args.assignments, args.beam)


def train(args: argparse.Namespace) -> int:
    from pipeline.config import load
    from pipeline.train import run_train

    return run_train(load(args.config, args.assignments).train, args.corpus, args.out)


def evaluate(args: argparse.Namespace) -> int:
    return EVALUATIONS[args.evaluation](args)


def evaluate_loss(args: argparse.Namespace) -> int:
    from training.evaluate import evaluate as held_out
    from training.evaluate import table

    report = held_out(args.checkpoint, args.corpus)
    print(json.dumps(report, indent=1) if args.json else table(report))
    return 0


def evaluate_lm(args: argparse.Namespace) -> int:
    from pipeline import evaluate_lm as lm
    from pipeline import files
    from pipeline.config import load, options_of

    options = options_of(lm.LmOptions, args.assignments, "evaluate lm")
    config = load(args.config) if args.config else None
    report, verdicts = lm.evaluate_lm(
        args.checkpoint, args.suite, args.data, options, config=config, cache=args.cache, say=_aside
    )
    if args.out:
        files.write(args.out, lm.lines_of(verdicts))
    print(lm.as_json(report) if args.json else lm.table(report))
    return 0


def evaluate_generation(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from pipeline import evaluate_generation as generation
    from pipeline.config import options_of
    from pipeline.continuations import PromptOptions

    options = options_of(PromptOptions, args.assignments, "evaluate generation")
    report = generation.evaluate_generation(args.checkpoint, args.corpus, options, args.out, _aside)
    print(json.dumps(asdict(report), indent=1) if args.json else generation.table(report, options))
    return 0


def preferences(args: argparse.Namespace) -> int:
    from pipeline.config import options_of
    from pipeline.preferences import PreferenceOptions, make_preferences, table

    options = options_of(PreferenceOptions, args.assignments, "preferences")
    print(table(make_preferences(args.checkpoint, args.corpus, args.out, options, _aside)))
    return 0


def dpo(args: argparse.Namespace) -> int:
    from pipeline.train import run_dpo

    return run_dpo(args.checkpoint, args.preferences, args.out, args.assignments)


def _aside(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def speak(args: argparse.Namespace) -> int:
    if args.source == "taste":
        from pipeline.speak_taste import speak_row

        if not args.id:
            raise UserError("--from taste says one row of a corpus: name it with --id")
        if args.fill:
            raise UserError("--fill goes with a model that speaks")
        if args.codes_of and args.text_only:
            raise UserError("--codes-of gives codes and --text-only takes them away: choose one")
        if args.temperature is not None:
            raise UserError("--temperature is of a model's sampling; --from taste takes the likeliest units")
        print(
            speak_row(
                args.checkpoint,
                args.id,
                args.out,
                codes_of=args.codes_of,
                text_only=args.text_only,
            )
        )
        return 0
    if args.id or args.codes_of or args.text_only:
        raise UserError("--id, --codes-of and --text-only go with --from taste")
    from pipeline.speak import speak as say

    temperature = 0.8 if args.temperature is None else args.temperature
    spoken = say(
        args.checkpoint,
        args.text,
        args.out,
        max_s=args.max_s,
        seed=args.seed,
        temperature=temperature,
        fill=args.fill,
    )
    print(spoken)
    return 0


def evaluate_tokens(args: argparse.Namespace) -> int:
    from pipeline.bench.run import run_evaluate_tokens

    return run_evaluate_tokens(
        args.corpus,
        args.tokenizers,
        rows=args.rows,
        out=args.out,
        phones=args.phones,
        recogniser=args.recogniser,
        probe_steps=args.probe_steps,
    )


def _lm_options() -> Any:
    from pipeline.evaluate_lm import LmOptions

    return LmOptions


def _prompt_options() -> Any:
    from pipeline.continuations import PromptOptions

    return PromptOptions


def _preference_options() -> Any:
    from pipeline.preferences import PreferenceOptions

    return PreferenceOptions


OPTIONS: dict[str, Callable[[], Any]] = {
    "evaluate-lm": _lm_options,
    "evaluate-generation": _prompt_options,
    "preferences": _preference_options,
}
"""Options that are no section of the config; `antiphon config NAME` prints them."""

EVALUATIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "loss": evaluate_loss,
    "lm": evaluate_lm,
    "generation": evaluate_generation,
    "tokens": evaluate_tokens,
}
"""What `antiphon evaluate` can do, by its second word."""

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "doctor": doctor,
    "pull": pull,
    "config": config,
    "tokenizers": tokenizers,
    "convert": convert,
    "plan": plan,
    "prepare": prepare,
    "status": status,
    "verify": verify,
    "retry": retry,
    "inspect": inspect,
    "fit": fit,
    "dialogues": dialogues,
    "train": train,
    "evaluate": evaluate,
    "preferences": preferences,
    "dpo": dpo,
    "speak": speak,
}
