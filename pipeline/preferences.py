"""`antiphon preferences`: pairs of continuations of one prompt of which one is clearly the better, for DPO.

Every prompt is continued N times; a recogniser hears each continuation, and judges score it (RLAIF as in Align-SLM, arXiv
2411.01834, with a text LM's likelihood in the place of a large LM's rating). The best and the worst make a pair where they
lie far enough apart.

    OUT/candidates.jsonl     a line a prompt: all its continuations with their measures; a run that was stopped goes on after it
    OUT/config.json          what they depend on: options, policy, corpus, judges
    OUT/preferences.parquet  the pairs, and the same in preferences.jsonl without ids and codes

Which pairs are clear is decided at the end, from the candidates: other margins need no new sampling.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipeline import files
from pipeline.continuations import Judges, Measures, Prompt, PromptOptions, continue_, prompts_of
from pipeline.store import Store
from schemas.errors import UserError
from training.checkpoint import Checkpoint, load
from training.loader import check_cards
from training.reader import Corpus
from transforms.options import Options

SCORER_VERSION = 1
"""Raised whenever the same measures get another score."""


class PairOptions(Options):
    """Which continuations are better, and when a pair of them is clear. None of this is sampled: change it and run again."""

    likelihood: float = Field(1.0, ge=0)
    """Weight of the text LM's mean log-likelihood (nats a token) of the transcript after the prompt's words."""
    wer: float = Field(0.0, ge=0)
    """Weight of 1 minus the word error rate between what the model says it says and what is heard."""
    dnsmos: float = Field(0.0, ge=0)
    """Weight of the sound's DNSMOS, 1 to 5; 0 leaves DNSMOS out altogether."""
    repetition: float = Field(0.0, ge=0)
    """Weight of 1 minus the share of repeated bigrams (auto-BLEU)."""
    margin: float = Field(0.5, ge=0)
    """Score by which the chosen one must be better than the rejected one."""
    max_auto_bleu: float = Field(0.3, ge=0, le=1)
    """The chosen one must not repeat more of its bigrams: a text LM likes repetition."""
    max_run: float = Field(8.0, ge=1)
    """Nor may its first codes stand still for more frames on average: silence and hums."""
    min_words: int = Field(3, ge=1)
    """Both must have so many words in their transcripts."""


class PreferenceOptions(PromptOptions):
    """Sampling continuations and choosing pairs of them."""

    split: str | None = "train"
    """Rows of this split, train or heldout; null for all."""
    continuations: int = Field(4, ge=2)
    """Of each prompt."""
    temperature: float = Field(1.0, ge=0)
    """Of sampling."""
    pair: PairOptions = PairOptions()


@dataclass(frozen=True)
class PreferenceReport:
    """How many prompts were continued, how many gave a pair, and why others did not; means over the pairs."""

    prompts: int
    pairs: int
    without: dict[str, int]
    chosen: dict[str, float]
    rejected: dict[str, float]
    path: Path


def score(measures: dict[str, Any], options: PairOptions) -> float | None:
    """The weighted sum of what the judges say, the higher the better; None where a judge with a weight has said nothing."""
    total = 0.0
    for weight, found in (
        (options.likelihood, None if measures["nll"] is None else -measures["nll"]),
        (options.wer, None if measures["wer"] is None else 1.0 - measures["wer"]),
        (options.dnsmos, measures["dnsmos"]),
        (options.repetition, 1.0 - measures["auto_bleu"]),
    ):
        if weight:
            if found is None:
                return None
            total += weight * found
    return total


def choose(
    candidates: Sequence[dict[str, Any]], options: PairOptions
) -> tuple[tuple[int, float], tuple[int, float]] | str:
    """((chosen, its score), (rejected, its score)) as indices into a prompt's candidates; or why there is no clear pair."""
    scores = {
        i: found
        for i, c in enumerate(candidates)
        if len(c["transcript"].split()) >= options.min_words and (found := score(c, options)) is not None
    }
    if len(scores) < 2:
        return "fewer than two continuations with words"
    fit = [
        i
        for i in scores
        if candidates[i]["auto_bleu"] <= options.max_auto_bleu and candidates[i]["run"] <= options.max_run
    ]
    if not fit:
        return "all repeat themselves"
    best = max(fit, key=lambda i: (scores[i], -i))
    worst = min(scores, key=lambda i: (scores[i], i))
    if scores[best] - scores[worst] < options.margin or best == worst:
        return "too close"
    return (best, scores[best]), (worst, scores[worst])


def make_preferences(
    checkpoint: str | Path,
    corpus: str | Path,
    out: str | Path,
    options: PreferenceOptions | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PreferenceReport:
    """Sample, score and choose; run again, it goes on where it was stopped, to the same bytes.

    Raises UserError: a layout that cannot be heard, an `out` of other options, no prompt, CorpusBusy.
    """
    options = options or PreferenceOptions()
    out = Path(out)
    run = load(Path(checkpoint), options.device)
    opened = Corpus(corpus)
    check_cards(run.layout, run.cards, opened.cards, run.path)
    with Store(str(out)).lock(None):
        judges = Judges(run, options, dnsmos=options.pair.dnsmos > 0)
        policy = _policy(run)
        _same_as_before(out, options, policy, opened.fingerprint, judges.weights)
        done = _finished(out / "candidates.jsonl")
        with (out / "candidates.jsonl").open("ab") as stream:
            for number, prompt in enumerate(prompts_of(run, opened, options), 1):
                if prompt.id in done:
                    continue
                line = _continued(run, prompt, judges, options)
                stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
                heard = " | ".join(c["transcript"] for c in line["candidates"])
                say(f"{number}: {prompt.text} -> {heard}")
        return _write(out, options, policy, judges.weights)


def _continued(run: Checkpoint, prompt: Prompt, judges: Judges, options: PreferenceOptions) -> dict[str, Any]:
    candidates = []
    for number in range(options.continuations):
        made, words, codes = continue_(run, prompt, number, options)
        measures, _, _ = judges.measure(prompt, words, codes)
        candidates.append(
            asdict(measures)
            | {
                "said": " ".join(words),
                "codes": codes.tolist(),
                "inputs": made.inputs.tolist(),
                "drawn": made.drawn.astype(int).tolist(),
            }
        )
    given = prompt.row["codec_codes"]
    return {
        "id": prompt.id,
        "source": prompt.source,
        "prompt": prompt.text,
        "prompt_s": prompt.seconds,
        "prompt_codes": given.tolist(),
        "candidates": candidates,
    }


def _policy(run: Checkpoint) -> str:
    """The checkpoint's name and the hash of its weights."""
    assert run.path is not None
    with (run.path / "model.safetensors").open("rb") as stream:
        return f"{run.path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _same_as_before(out: Path, options: PreferenceOptions, policy: str, corpus: str, judges: dict[str, str]) -> None:
    """Write what the candidates depend on, or see that it is what they were made with. Raises UserError."""
    sampled = options.model_dump(mode="json", exclude={"pair", "prompts", "device"})
    now = {"options": sampled, "policy": policy, "corpus": corpus, "judges": judges}
    path = out / "config.json"
    if not path.exists():
        files.write(str(path), (json.dumps(now, indent=1, sort_keys=True) + "\n").encode())
        return
    before = json.loads(path.read_text("utf-8"))
    there = before.pop("options") | before
    here = now.pop("options") | now  # type: ignore[operator]
    changed = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    if changed:
        raise UserError(f"{out} holds continuations of another {', '.join(changed)}: give another --out folder")


def _finished(path: Path) -> set[str]:
    """Ids of the prompts that are done. A last line that was cut off is taken away."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
    return {json.loads(line)["id"] for line in whole.splitlines()}


_IDS = pa.list_(pa.list_(pa.int32()))
_SIDE = pa.struct(
    [
        ("codes", _IDS),
        ("text", pa.string()),
        ("said", pa.string()),
        ("score", pa.float64()),
        ("inputs", _IDS),
        ("drawn", pa.list_(pa.list_(pa.bool_()))),
        *((name, pa.float64()) for name in ("seconds", "nll", "wer", "dnsmos", "auto_bleu", "run")),
    ]
)
SCHEMA = pa.schema(
    [
        (
            "prompt",
            pa.struct([("id", pa.string()), ("text", pa.string()), ("audio_ref", pa.string()), ("codes", _IDS)]),
        ),
        ("chosen", _SIDE),
        ("rejected", _SIDE),
        ("scorer", pa.string()),
        ("scorer_version", pa.int32()),
        ("policy_ckpt", pa.string()),
        ("seed", pa.int64()),
    ]
)
"""A row: `inputs` `[S, R]` are the ids of the whole sequence, prompt included, and `drawn` tells those that the policy chose: the
mask of the loss. `codes` `[K, T]` are undelayed. `audio_ref`: source, then the seconds of the prompt."""


def rows_of(
    path: Path, options: PreferenceOptions, policy: str, judges: dict[str, str]
) -> Iterator[dict[str, Any] | str]:
    """The preference row of each prompt in candidates.jsonl, or why it has none."""
    scorer = json.dumps({"weights": judges, **options.pair.model_dump(mode="json")}, sort_keys=True)
    with path.open("rb") as stream:
        for text in stream:
            line = json.loads(text)
            found = choose(line["candidates"], options.pair)
            if isinstance(found, str):
                yield found
                continue
            prompt = {
                "id": line["id"],
                "text": line["prompt"],
                "audio_ref": f"{line['source']}#0-{line['prompt_s']:.3f}",
                "codes": line["prompt_codes"],
            }
            sides = []
            for i, scored in found:
                c = line["candidates"][i]
                sides.append(
                    {name: c[name] for name in ("codes", "said", "inputs", *_NUMBERS)}
                    | {
                        "text": c["transcript"],
                        "score": scored,
                        "drawn": [[bool(d) for d in row] for row in c["drawn"]],
                    }
                )
            yield {
                "prompt": prompt,
                "chosen": sides[0],
                "rejected": sides[1],
                "scorer": scorer,
                "scorer_version": SCORER_VERSION,
                "policy_ckpt": policy,
                "seed": options.seed,
            }


_NUMBERS = ("seconds", "nll", "wer", "dnsmos", "auto_bleu", "run")


def _write(out: Path, options: PreferenceOptions, policy: str, judges: dict[str, str]) -> PreferenceReport:
    rows: list[dict[str, Any]] = []
    without: dict[str, int] = {}
    for found in rows_of(out / "candidates.jsonl", options, policy, judges):
        if isinstance(found, str):
            without[found] = without.get(found, 0) + 1
        else:
            rows.append(found)
    if not rows and not without:
        raise UserError(f"{out}: no prompt: no row of the split {options.split!r} lasts {options.min_s} s or more")
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd")
    files.write(str(out / "preferences.parquet"), sink.getvalue())
    brief = [
        row | {side: {k: v for k, v in row[side].items() if k not in ("codes", "inputs", "drawn")} for side in _SIDES}
        for row in rows
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in brief)
    files.write(str(out / "preferences.jsonl"), text.encode())
    return PreferenceReport(
        len(rows) + sum(without.values()),
        len(rows),
        without,
        _means(rows, "chosen"),
        _means(rows, "rejected"),
        out / "preferences.parquet",
    )


_SIDES = ("prompt", "chosen", "rejected")


def _means(rows: Sequence[dict[str, Any]], side: str) -> dict[str, float]:
    """Of each number of a side, over the rows that have it."""
    found = {name: [row[side][name] for row in rows if row[side][name] is not None] for name in ("score", *_NUMBERS)}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def table(report: PreferenceReport) -> str:
    """A report for people."""
    lines = [f"{report.prompts} prompts, {report.pairs} clear pairs: {report.path}"]
    lines += [f"  no pair: {n} prompts: {why}" for why, n in sorted(report.without.items())]
    lines.append(f"  {'':<10} {'chosen':>9} {'rejected':>9}")
    lines += [
        f"  {name:<10} {x:9.3f} {report.rejected[name]:9.3f}"
        for name, x in report.chosen.items()
        if name in report.rejected
    ]
    return "\n".join(lines)


__all__ = ["SCHEMA", "Measures", "PreferenceOptions", "PreferenceReport", "make_preferences", "table"]
