"""`antiphon evaluate generation`: what a text LM thinks of what a recogniser hears in a model's continuations."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.continuations import Judges, PromptOptions, continue_, prompts_of
from schemas.errors import UserError
from training.checkpoint import load
from training.loader import check_cards
from training.perplexity import auto_bleu
from training.reader import Corpus


@dataclass(frozen=True)
class Texts:
    """Of the transcripts of some continuations.

    Attributes:
        perplexity: exp of the mean over transcripts of their nats a token (slamkit's GenPPL); None where none has two tokens.
        by_token: exp of all nats over all tokens, which a short transcript weighs less in.
        auto_bleu: mean share of repeated bigrams. empty: transcripts without a word.
    """

    perplexity: float | None
    by_token: float | None
    auto_bleu: float
    empty: int


@dataclass(frozen=True)
class GenerationReport:
    """`model`: of the continuations. `codec`: of the real ones through the codec alone. `real`: of the words that really follow."""

    checkpoint: str
    step: int
    prompts: int
    seconds: float
    model: Texts
    codec: Texts
    real: Texts


def texts(transcripts: Sequence[str], nlls: Sequence[tuple[float, int]]) -> Texts:
    """Sum up transcripts and the (nats, tokens) of each."""
    means = [total / n for total, n in nlls if n]
    tokens = sum(n for _, n in nlls)
    return Texts(
        math.exp(sum(means) / len(means)) if means else None,
        math.exp(sum(total for total, _ in nlls) / tokens) if tokens else None,
        sum(map(auto_bleu, transcripts)) / len(transcripts),
        sum(not text for text in transcripts),
    )


def evaluate_generation(
    checkpoint: str | Path,
    corpus: str | Path,
    options: PromptOptions | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> GenerationReport:
    """Continue the rows of a corpus once each, and judge what is heard.

    `out`: folder for `continuations.jsonl` and a wav of each prompt with its continuation.

    Raises UserError: a layout that cannot be heard, another codec than the checkpoint's, no row long enough.
    """
    options = options or PromptOptions()
    run = load(Path(checkpoint), options.device)
    opened = Corpus(corpus)
    check_cards(run.layout, run.cards, opened.cards, run.path)
    judges = Judges(run, options)
    lines: list[dict[str, Any]] = []
    full = {"codec_codes", "id"}
    codes_of = {row["id"]: row["codec_codes"] for row in opened.rows(options.split, full)}
    for prompt in prompts_of(run, opened, options):
        _, words, codes = continue_(run, prompt, 0, options)
        measures, samples, rate_hz = judges.measure(prompt, words, codes)
        given = prompt.row["codec_codes"]
        n = given.shape[1]
        limit = round(options.max_s * run.cards["codec"].rate_hz)
        again = judges.hear(*judges.sound(codes_of[prompt.id][: len(codes), n : n + limit]))
        lines.append(
            {"id": prompt.id, "source": prompt.source, "prompt": prompt.text, "said": " ".join(words)}
            | asdict(measures)
            | {
                "codec": again,
                "codec_nll": judges.nll(again),
                "real": prompt.follows,
                "real_nll": judges.nll(prompt.follows),
            }
        )
        say(f"{len(lines)}: {prompt.text} | {measures.transcript}")
        if out is not None:
            _write_wav(
                Path(out) / f"{prompt.id}.wav", np.concatenate([judges.sound(given[: len(codes)])[0], samples]), rate_hz
            )
    if not lines:
        raise UserError(
            f"{corpus}: no row of the split {options.split!r} lasts {max(options.min_s, options.prompt_s):.1f} s or more"
        )
    if out is not None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        files.write(str(Path(out) / "continuations.jsonl"), text.encode())
    return GenerationReport(
        str(run.path),
        run.progress.step,
        len(lines),
        sum(line["seconds"] for line in lines),
        texts([line["transcript"] for line in lines], [line["alone"] for line in lines]),
        texts([line["codec"] for line in lines], [line["codec_nll"] for line in lines]),
        texts([line["real"] for line in lines], [line["real_nll"] for line in lines]),
    )


def _write_wav(path: Path, samples: np.ndarray, rate_hz: int) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), samples, rate_hz, subtype="PCM_16")


def table(report: GenerationReport, options: PromptOptions) -> str:
    """A report for people."""
    lines = [
        f"{report.checkpoint}, step {report.step}: {report.prompts} prompts of about {options.prompt_s} s, continued by up to "
        f"{options.max_s} s ({report.seconds:.1f} s in all), temperature {options.temperature}, top-k {options.speech_top_k}",
        f"transcripts by {options.transcribe.model}, perplexity by {options.lm} (of the continuation alone)",
        f"{'':<34} {'GenPPL':>10} {'by token':>10} {'auto-BLEU-2':>12} {'no word':>8}",
    ]
    for name, found in (
        ("continuations", report.model),
        ("real ones, through the codec", report.codec),
        ("what is written of the real ones", report.real),
    ):
        numbers = [f"{x:10.1f}" if x is not None else f"{'-':>10}" for x in (found.perplexity, found.by_token)]
        lines.append(f"{name:<34} {' '.join(numbers)} {found.auto_bleu:12.4f} {found.empty:8d}")
    return "\n".join(lines)
