"""`antiphon evaluate tokens`: every tokenizer on the same clips, one table, one picture."""

import itertools
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pipeline import files
from pipeline.bench import subjects
from pipeline.bench.probe import STEPS
from pipeline.bench.report import Report, markdown, table
from schemas import Utterance
from schemas.errors import UserError
from transforms.resample import resample

Say = Callable[[str], None]

_PACKAGES = ("torchmetrics", "pesq", "pystoi", "matplotlib")
_DEFAULT_ROWS = 60


def run_evaluate_tokens(
    corpus: str,
    names: Sequence[str],
    *,
    rows: int = _DEFAULT_ROWS,
    out: str | None = None,
    phones: str | None = None,
    recogniser: str = "whisper-tiny",
    probe_steps: int = STEPS,
    say: Say = lambda line: print(line, file=sys.stderr, flush=True),
) -> int:
    """Measure, print the table, and write tokens.md, tokens.json and tokens.png to `out`. Returns the exit code:
    130 where it was interrupted, of which the table then says so and holds what was finished.

    Raises UserError: a name that is none, missing weights or packages, no corpus there, no rows in it.
    """
    if rows < 1:
        raise UserError(f"--rows {rows}: at least one clip is needed")
    if probe_steps < 0:
        raise UserError(f"--probe-steps {probe_steps}: 0 leaves the probes out, and less is nothing")
    for name in names:
        subjects.parse(name)
    if out is not None and Path(out).is_file():
        raise UserError(f"--out {out}: that is a file; name a folder")
    if set(names) == {subjects.ORIGINAL}:
        raise UserError(f"--tokenizer {subjects.ORIGINAL} is always the first row; name a tokenizer beside it")
    check_packages()
    clips = first_clips(corpus, rows)
    report = evaluate(
        clips, names, corpus=corpus, phones=phones, recogniser=recogniser, probe_steps=probe_steps, say=say
    )
    print(table(report))
    if out is not None:
        from pipeline.bench.picture import picture

        files.write(files.join(out, "tokens.md"), markdown(report).encode())
        files.write(files.join(out, "tokens.json"), (json.dumps(report.as_json(), indent=1) + "\n").encode())
        files.write(files.join(out, "tokens.png"), picture(report))
        say(f"written: {files.join(out, 'tokens.md')}, tokens.json, tokens.png")
    return 130 if report.conditions["unfinished"] else 0


def check_packages() -> None:
    """Raise UserError where a package of the extra `bench` is not installed."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"evaluate tokens needs {', '.join(missing)}: pip install 'antiphon[bench]'")


def first_clips(corpus: str, rows: int) -> list[Utterance]:
    """The first rows of a corpus, audio decoded. Raises UserError where it has none."""
    from pipeline.fit import utterances

    clips = list(itertools.islice(utterances(corpus), rows))
    if not clips:
        raise UserError(f"{corpus}: no rows; `antiphon status {corpus}` says what was rejected, and why")
    return clips


def evaluate(
    clips: Sequence[Utterance],
    names: Sequence[str],
    *,
    corpus: str = "",
    phones: str | None = None,
    recogniser: str = "whisper-tiny",
    probe_steps: int = STEPS,
    say: Say = lambda line: None,
) -> Report:
    """Every tokenizer on the same clips, the clips themselves first. Interrupted, it ends with those that are finished."""
    from pipeline.bench.heard import Listener, Voices, similarity_of_clips
    from pipeline.bench.labels import Labels
    from pipeline.bench.measure import Bench, clock
    from pipeline.bench.signal import RATE_HZ

    seconds = sum(clip.duration_s for clip in clips)
    # All are loaded before the first is measured: a wrong one shall be known at once, and not after half an hour.
    asked = [subjects.make(name) for name in dict.fromkeys(names) if name != subjects.ORIGINAL]
    say(f"{len(clips)} clips, {seconds:.1f} s")
    originals = [resample(clip.samples, clip.rate_hz, RATE_HZ) for clip in clips]
    labels = Labels(clips, phones, probe_steps)
    bench = Bench(clips, originals, labels, Listener(recogniser), Voices(), say)
    results = [bench.originals()]
    unfinished: list[str] = []
    for i, subject in enumerate(asked):
        try:
            results.append(bench.measure(subject))
        except KeyboardInterrupt:
            if i == 0:
                raise
            unfinished = [left.name for left in asked[i:]]
            break
    same, other = similarity_of_clips(bench.voiceprints, labels.speakers)
    conditions = {
        "corpus": Path(corpus).name,
        "clips": len(clips),
        "seconds": seconds,
        "date": str(date.today()),
        "machine": _machine(),
        "versions": ", ".join(f"{package} {version(package)}" for package in ("torch", *_PACKAGES)),
        "clock": f"x real time: {clock().about}",
        "words": f"by {recogniser}, against {_words_by(clips)}",
        "similarity_of_one_speaker": same,
        "similarity_of_two_speakers": other,
        "probes": labels.about,
        "unfinished": unfinished,
    }
    return Report(conditions, results)


def _words_by(clips: Sequence[Utterance]) -> str:
    models = sorted({str(clip.columns["asr_model"]) for clip in clips if clip.columns.get("asr_model")})
    if not models:
        return "the texts that came with the audio"
    return f"what {', '.join(models)} heard when the corpus was made: no error rate, but how much that changes"


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    model = next((s.partition(":")[2].strip() for s in lines if s.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
