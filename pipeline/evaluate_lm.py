"""`antiphon evaluate lm`: how often a model finds the good side of a pair likelier than the bad one."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.clips import Clip, Heard, Words, hear
from pipeline.config import Config
from schemas.errors import UserError
from training import suites
from training.checkpoint import Checkpoint, load
from training.layouts.base import Sequence as Laid
from training.scoring import (
    Accuracy,
    Scoring,
    Stream,
    Streams,
    accuracy,
    choose,
    lay,
    lay_text,
    score_sequences,
    value,
    win,
    with_words,
)
from training.suites import Pair, Side
from transforms.dialogue.speak import SpeakOptions
from transforms.options import Options
from transforms.weights.find import cache_folder

Modality = Literal["speech", "text", "speech-text", "text-speech"]


class LmOptions(Options):
    """What of a pair is scored, and how."""

    modality: Modality | None = None
    """"speech": each side is heard. "text": each side is read. "speech-text": the prompt is heard, and what follows it read.
    "text-speech": the other way round. Null: speech for sound files and for sentences, text for stories in a table."""
    words: Words | None = None
    """What stands in the text row of a side that is heard: "none" (what is scored is textless); the words as "given"; or as the
    recogniser hears them, "asr". Null: none, but for a layout of word-aligned codes, which has no sound without words."""
    streams: tuple[str, ...] = ()
    """Rows of the layout to score, by name, or text, speech (all but text), first (the first of those) or joint (all). Empty:
    speech where speech is scored last (joint for word-aligned codes), otherwise text."""
    score: Literal["mean", "sum"] = "mean"
    """Log-likelihood a label, or of the whole: they rank pairs of unequal length differently."""
    specials: bool = False
    """Score labels outside the tokens too: PAD, EPAD, EOS."""
    restrict: bool = True
    """Share the probability among the tokens of a row alone, not among its specials too."""
    whole: bool = False
    """Where a prompt is read and so is what follows: score both, rather than what follows given the prompt."""
    limit: int | None = Field(None, ge=1)
    """Score so many pairs of each path only, drawn by `seed`."""
    seed: int = 0
    """Of `limit`, and of the wrong endings of topic-storycloze."""
    language: str = "en"
    """ISO 639-1 code of what is said."""
    speak: SpeakOptions = SpeakOptions()
    """The voice that says sentences: that of the role assistant."""
    batch_tokens: int = Field(1024, ge=16)
    """Positions that go through the model together."""
    device: str = "cpu"
    """"cpu", or "cuda"."""


@dataclass(frozen=True)
class Verdict:
    """A scored pair: what each side's streams sum to, what was compared, and 1, 0.5 or 0."""

    pair: Pair
    good: Streams
    bad: Streams
    good_score: float
    bad_score: float
    won: float

    def as_json(self) -> dict[str, Any]:
        """Streams as `name: [nats, labels]`."""
        sides = {"good": self.good, "bad": self.bad}
        return {
            "id": self.pair.id,
            "categories": self.pair.categories,
            "good_score": self.good_score,
            "bad_score": self.bad_score,
            "won": self.won,
        } | {side: {name: [s.total, s.labels] for name, s in streams.items()} for side, streams in sides.items()}


@dataclass(frozen=True)
class LmReport:
    """The accuracy on a suite, with all that it depends on.

    Attributes:
        unscored: why pairs have no score, and how many. long: sequences longer than those of the training.
        shorter: the accuracy of taking the side with fewer labels: what a sum of log-likelihoods gets for nothing.
        by: category -> value -> accuracy. other: (streams, score) -> accuracy on the same pairs, for comparison.
    """

    suite: str
    checkpoint: str
    step: int
    layout: str
    modality: str
    words: str
    streams: tuple[str, ...]
    score: str
    restrict: bool
    specials: bool
    unscored: dict[str, int]
    long: int
    all: Accuracy
    shorter: Accuracy
    by: dict[str, dict[str, Accuracy]]
    other: dict[str, Accuracy]


def evaluate_lm(
    checkpoint: str | Path,
    suite: str,
    paths: Sequence[str | Path],
    options: LmOptions | None = None,
    *,
    config: Config | None = None,
    cache: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[LmReport, list[Verdict]]:
    """Score a suite.

    Args:
        suite: a name of `training.suites.SUITES`. paths: its files or folders.
        config: with the stages that made the training corpus; null for the defaults.
        cache: folder for the corpora of what is heard; null for one under the weights' cache.

    Raises UserError: files that are not of the suite, tokens that are not the checkpoint's, no pair that could be scored.
    """
    options = options or LmOptions()
    run = load(Path(checkpoint), options.device)
    if suite not in suites.SUITES:
        raise UserError(f"no suite {suite!r}; there are {', '.join(suites.SUITES)}")
    pairs = [pair for path in paths for pair in _drawn(suites.read(suite, [Path(path)], options.seed), options)]
    modality = options.modality or default_modality(pairs)
    clips = list(dict.fromkeys(clip for p in pairs for side in (p.good, p.bad) for clip in _heard(p, side, modality)))
    words = options.words or _default_words(run, clips)
    streams = choose(run.layout, options.streams or (_default_stream(run, modality),))
    heard = Heard({}, {})
    if clips:
        if words == "given" and (missing := [clip.audio for clip in clips if not clip.text]):
            raise UserError(f"words are to be given, and {len(missing)} clips come without, such as {missing[0]}")
        mark = repr((clips, words, options.language, options.speak, sorted(run.cards.items())))
        folder = Path(cache or cache_folder() / "suites") / f"{suite}-{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
        say(f"{len(pairs)} pairs, {len(clips)} clips to hear: {folder}")
        heard = hear(
            run,
            clips,
            folder,
            words=words,
            language=options.language,
            voice=options.speak,
            config=config or Config(),
            say=say,
        )
    verdicts, unscored, long = _score(run, pairs, heard, modality, streams, options)
    if not verdicts:
        raise UserError(f"none of {len(pairs)} pairs could be scored: {'; '.join(unscored)[:1000]}")
    report = LmReport(
        suite,
        str(run.path),
        run.progress.step,
        run.layout.name,
        modality,
        words if clips else "read",
        streams,
        options.score,
        options.restrict,
        options.specials,
        dict(unscored),
        long,
        _accuracy(verdicts),
        _shorter(verdicts, streams),
        _by_category(verdicts),
        _others(run, verdicts),
    )
    return report, verdicts


def default_modality(pairs: Sequence[Pair]) -> Modality:
    """Speech where sides are sound files or sentences of their own, text where they are endings of stories in writing."""
    prompts = [pair.good.prompt for pair in pairs if pair.good.prompt]
    if not prompts:
        return "speech"
    if any(prompt.audio for prompt in prompts):
        raise UserError("the stories and their endings are sound files of their own: say which modality is meant")
    return "text"


def _drawn(pairs: list[Pair], options: LmOptions) -> list[Pair]:
    if options.limit is None or options.limit >= len(pairs):
        return pairs
    chosen = sorted(random.Random(options.seed).sample(range(len(pairs)), options.limit))
    return [pairs[i] for i in chosen]


def _default_words(run: Checkpoint, clips: Iterable[Clip]) -> Words:
    if "taste" not in run.layout.kinds:
        return "none"
    return "given" if all(clip.text for clip in clips) else "asr"


def _default_stream(run: Checkpoint, modality: Modality) -> str:
    if modality in ("text", "speech-text"):
        return "text"
    return "joint" if "taste" in run.layout.kinds else "speech"


def _heard(pair: Pair, side: Side, modality: Modality) -> list[Clip]:
    """What of a side is heard. Raises UserError for a pair that lacks what the modality needs."""
    if modality in ("speech-text", "text-speech") and side.prompt is None:
        raise UserError(f"pair {pair.id} has no prompt, which modality {modality} needs")
    if modality != "speech" and not (
        side.text and (side.prompt is None or side.prompt.text or modality == "speech-text")
    ):
        raise UserError(f"pair {pair.id} comes without its words, which modality {modality} needs")
    if modality == "text":
        return []
    if modality == "speech-text":
        assert side.prompt
        return [Clip(side.prompt.text, side.prompt.audio)]
    if modality == "speech" and side.prompt:
        if side.audio or side.prompt.audio:
            raise UserError(f"pair {pair.id}: its prompt is a sound file of its own; give files that hold both")
        return [Clip(f"{side.prompt.text} {side.text}")]
    return [Clip(side.text, side.audio)]


def _score(
    run: Checkpoint,
    pairs: Sequence[Pair],
    heard: Heard,
    modality: Modality,
    streams: tuple[str, ...],
    options: LmOptions,
) -> tuple[list[Verdict], Counter[str], int]:
    unscored: Counter[str] = Counter()
    kept: list[Pair] = []
    laid: list[Laid] = []
    places: list[list[tuple[int, int | None]]] = []
    for pair in pairs:
        lost = [heard.lost[c] for s in (pair.good, pair.bad) for c in _heard(pair, s, modality) if c in heard.lost]
        if lost:
            unscored[lost[0].partition(":")[0]] += 1
            continue
        kept.append(pair)
        places.append([])
        for side in (pair.good, pair.bad):
            whole, prior = _sequences(run, pair, side, heard, modality, options.whole)
            places[-1].append((len(laid), len(laid) + 1 if prior else None))
            laid += [whole, prior] if prior else [whole]
    scoring = Scoring(options.score, options.specials, options.restrict)
    scored = score_sequences(run, laid, scoring, options.batch_tokens)
    verdicts = []
    for pair, sides in zip(kept, places, strict=True):
        good, bad = (_less(scored[a], scored[b]) if b is not None else scored[a] for a, b in sides)
        one, other = (value(side, streams, options.score) for side in (good, bad))
        if one is None or other is None:
            unscored[f"no label in {', '.join(streams)}"] += 1
        else:
            verdicts.append(Verdict(pair, good, bad, one, other, win(one, other)))
    return verdicts, unscored, sum(len(s.inputs) > run.options.seq_len for s in laid)


def _less(whole: Streams, prior: Streams) -> Streams:
    return {name: stream - prior[name] for name, stream in whole.items()}


def _sequences(
    run: Checkpoint, pair: Pair, side: Side, heard: Heard, modality: Modality, whole: bool
) -> tuple[Laid, Laid | None]:
    """A side laid out, and, where a prompt is read and its own score is to be taken off, the prompt."""
    prompt = side.prompt.text.split() if side.prompt else []
    if modality == "text":
        prior = lay_text(run, prompt, pair.id) if prompt and not whole else None
        return lay_text(run, prompt + side.text.split(), pair.id), prior
    row = heard.rows[_heard(pair, side, modality)[0]]
    if modality == "speech-text":
        return lay(run, with_words(row, side.text.split(), row["duration_s"])), None
    return lay(run, with_words(row, prompt, 0.0) if modality == "text-speech" else row), None


def _accuracy(verdicts: Sequence[Verdict]) -> Accuracy:
    return accuracy([v.won for v in verdicts], [v.pair.item or v.pair.id for v in verdicts])


def _shorter(verdicts: Sequence[Verdict], streams: Sequence[str]) -> Accuracy:
    def labels(side: Streams) -> int:
        return sum(side[name].labels for name in streams)

    wins = [win(-labels(v.good), -labels(v.bad)) for v in verdicts]
    return accuracy(wins, [v.pair.item or v.pair.id for v in verdicts])


def _by_category(verdicts: Sequence[Verdict]) -> dict[str, dict[str, Accuracy]]:
    found: dict[str, dict[str, list[Verdict]]] = {}
    for verdict in verdicts:
        for name, one in verdict.pair.categories.items():
            found.setdefault(name, {}).setdefault(one, []).append(verdict)
    return {name: {one: _accuracy(members) for one, members in values.items()} for name, values in found.items()}


def _others(run: Checkpoint, verdicts: Sequence[Verdict]) -> dict[str, Accuracy]:
    """Each row, speech and joint, as mean and as sum, on the pairs that have labels there."""
    names = [row.name for row in run.layout.rows]
    found: dict[str, Accuracy] = {}
    for wanted in dict.fromkeys([*names, "speech", "joint"] if len(names) > 1 else names):
        members = choose(run.layout, [wanted])
        for how in ("mean", "sum"):
            values = [(v, value(v.good, members, how), value(v.bad, members, how)) for v in verdicts]
            there = [(v, win(one, other)) for v, one, other in values if one is not None and other is not None]
            if there:
                items = [v.pair.item or v.pair.id for v, _ in there]
                found[f"{wanted} {how}"] = accuracy([won for _, won in there], items)
    return found


def table(report: LmReport) -> str:
    """A report for people."""
    kept = "tokens only" if report.restrict else "all ids of the row"
    lines = [
        f"{report.suite}: {report.checkpoint}, step {report.step}, layout {report.layout}",
        f"scored: {report.score} log-likelihood of {' + '.join(report.streams)}, modality {report.modality}, words "
        f"{report.words}, softmax over {kept}, specials {'counted' if report.specials else 'left out'}; ties count half",
    ]
    lines += [f"no score: {n} pairs: {reason}" for reason, n in report.unscored.items()]
    if report.long:
        lines.append(
            f"{report.long} sequences are longer than train.seq_len: positions that the model was not trained on"
        )
    lines.append(f"{'':<34} accuracy    95 %           items  pairs  ties")

    def line(name: str, found: Accuracy) -> str:
        return (
            f"{name:<34}   {found.accuracy:.4f}    {found.low:.4f}-{found.high:.4f}  "
            f"{found.items:>6,d} {found.pairs:>6,d} {found.ties:>5,d}"
        )

    lines.append(line("all", report.all))
    for name, values in report.by.items():
        lines += [line(f"{name} {one}"[:34], found) for one, found in values.items()]
    lines.append(line("taking the side with fewer labels", report.shorter))
    lines.append("the same pairs by other streams and scores:")
    lines += [line(name, found) for name, found in report.other.items()]
    return "\n".join(lines)


def lines_of(verdicts: Iterable[Verdict]) -> bytes:
    """One JSON object a pair."""
    return "".join(json.dumps(v.as_json(), ensure_ascii=False) + "\n" for v in verdicts).encode()


def as_json(report: LmReport) -> str:
    return json.dumps(asdict(report), indent=1)


__all__ = ["LmOptions", "LmReport", "Stream", "Verdict", "as_json", "evaluate_lm", "lines_of", "table"]
