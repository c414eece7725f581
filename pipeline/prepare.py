"""`antiphon prepare`: sources in, committed shards out; run again, it does what is left to do."""

import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline import files
from pipeline.config import Config
from pipeline.runners import complete
from pipeline.store import Store
from schemas import SCHEMA_VERSION, Block, Commit, Reason
from schemas.errors import UserError
from schemas.show import redact_all
from transforms.align.stage import Align
from transforms.codec.stage import Codec
from transforms.decode import Decode
from transforms.filter import Filter
from transforms.label import Label
from transforms.measure import Measure
from transforms.segment import Segment
from transforms.speaker.stage import Speaker
from transforms.stage import Stage
from transforms.taste.stage import Taste
from transforms.transcribe.stage import Transcribe
from transforms.units.stage import Units


@dataclass
class Summary:
    """What a run did, from the commit records. Seconds are of audio unless said otherwise.

    Attributes:
        rejected: seconds by reason. rejections: their count by reason.
    """

    blocks: int
    done: int
    rows: int
    seconds_in: float
    seconds_kept: float
    rejected: dict[str, float]
    rejections: dict[str, int]
    took_s: float


def stages_of(config: Config) -> list[Stage]:
    """The stages of recorded speech, in order."""
    texts_given = config.transcribe.backend == "given" or config.transcribe.keep_given
    return [Decode(config.decode), Segment(config.segment, texts_given=texts_given), *common_stages(config)]


def common_stages(config: Config) -> list[Stage]:
    """The stages that recorded and synthetic speech share, from transcript to tokens."""
    stages: list[Stage] = [
        Transcribe(config.transcribe),
        Align(config.align),
        Measure(config.measure),
    ]
    if config.speaker is not None:
        stages.append(Speaker(config.speaker))
    if config.label is not None:
        stages.append(Label(config.label))
    return [*stages, Filter(config.filter, config.align.backend), *token_stages(config)]


def token_stages(config: Config) -> list[Stage]:
    """The tokenizers that the config has a section for."""
    stages: list[Stage] = []
    if config.units is not None:
        stages.append(Units(config.units))
    if config.codec is not None:
        stages.append(Codec(config.codec))
    if config.taste is not None:
        stages.append(Taste(config.taste))
    return stages


def plan_of(config: Config) -> list[Block]:
    """Read the sources' headers and lay them out in Blocks.

    Raises SourceError with every path that is wrong, and UserError for a name in `exclude` that no source has.
    """
    from pipeline.plan import make_plan
    from pipeline.sources import find_sources

    entries = find_sources(config.sources)
    unknown = sorted(set(config.exclude) - {entry.source for entry in entries})
    if unknown:
        raise UserError(f"exclude: no source is called {', '.join(unknown)}; `antiphon plan` prints their names")
    rate_hz, timeout_s = config.decode.rate_hz, config.decode.timeout_s
    blocks = make_plan(entries, config.plan, rate_hz=rate_hz, timeout_s=timeout_s)
    for block in blocks:
        # After planning, so that no other block changes. What is left of a block may be nothing.
        block.pieces = [piece for piece in block.pieces if piece.source not in config.exclude]
    return blocks


def fingerprint(block: Block, stages: Sequence[dict[str, Any]], formats: Sequence[str]) -> str:
    """sha256 over all that a block's shard depends on: its sources, and the stages' fingerprints (options, version, weights)."""
    parts = {
        "schema": SCHEMA_VERSION,
        "rate_hz": block.rate_hz,
        "pieces": [{**piece.plan(), "uri": ""} for piece in block.pieces],
        "stages": list(stages),
        "formats": sorted(formats),
    }
    # Without secrets, as config.yaml and plan.jsonl have it: `antiphon verify` comes to the same from those.
    return hashlib.sha256(json.dumps(redact_all(parts), sort_keys=True).encode()).hexdigest()


def prepare(
    config: Config,
    blocks: Sequence[Block],
    stages: Sequence[Stage],
    out: str,
    *,
    part: tuple[int, int] | None = None,
    redo: Callable[[Block], bool] = lambda block: False,
    beam_args: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Summary:
    """Make every planned block that is not committed under its fingerprint yet, and return what the corpus then holds.

    Args:
        part: `(i, n)` makes only the blocks whose index is i modulo n; several processes can share a corpus so.
        redo: blocks to make again although they are committed.

    Raises CorpusBusy where another run is writing to `out`, and whatever a stage raises in its set-up.
    """
    from pipeline.graph import run
    from pipeline.plan import write_plan

    started = time.monotonic()
    engine = complete(beam_args, out, blocks)
    store = Store(out)
    formats = sorted(config.write.formats)
    prints = [stage.fingerprint() for stage in stages]
    expected = {block.name: fingerprint(block, prints, formats) for block in blocks}
    with store.lock(part):
        resolved = {"config": config.corpus(), "stages": redact_all(prints)}
        files.write(store.path("config.yaml"), yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True).encode())
        files.write(store.path("plan.jsonl"), write_plan(blocks).encode())
        for block in blocks:
            if redo(block):
                store.forget(block.name)
        # Other parts may be at work: a part tidies up among its own blocks only.
        done = set(store.clean(expected, lambda name: part is None or _is_of(name, part)))
        mine = [b for b in blocks if part is None or b.index % part[1] == part[0]]
        todo = [b for b in mine if b.name not in done]
        if len(todo) < len(mine):
            say(f"{len(mine) - len(todo)} of {len(mine)} blocks are committed already")
        if todo:
            with _progress(store, todo, expected, started, say):
                run(todo, stages, out, expected, formats, engine)
        return summarise(store.commits(), len(blocks), time.monotonic() - started)


def _is_of(name: str, part: tuple[int, int]) -> bool:
    """Whether a block's name, such as part-00003, is of part `i` of `n`."""
    head, _, number = name.rpartition("-")
    return head == "part" and number.isdigit() and int(number) % part[1] == part[0]


def summarise(commits: dict[str, Commit], blocks: int, took_s: float) -> Summary:
    """Add up commit records."""
    rejected: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for commit in commits.values():
        for reason, samples in commit.samples_rejected.items():
            rejected[reason] += samples / commit.rate_hz  # type: ignore[assignment]
        count.update(commit.rejections)
    return Summary(
        blocks=blocks,
        done=len(commits),
        rows=sum(c.rows for c in commits.values()),
        seconds_in=sum(c.seconds_in for c in commits.values()),
        seconds_kept=sum(c.seconds_kept for c in commits.values()),
        rejected=dict(rejected),
        rejections=dict(count),
        took_s=took_s,
    )


@contextmanager
def _progress(
    store: Store, todo: Sequence[Block], expected: Mapping[str, str], started: float, say: Callable[[str], None]
) -> Iterator[None]:
    """Say a line for each block that is committed under its expected fingerprint. It watches the folder, so it tells the
    truth on any runner.
    """
    if files.is_remote(store.root):
        yield
        return
    waiting = {block.name for block in todo}
    stop = threading.Event()

    def look() -> None:
        for name in files.names(store.path("commits"), ".json"):
            block = name.removesuffix(".json")
            if block in waiting:
                commit = Commit.from_json(files.read(store.path("commits", name)).decode())
                if commit.fingerprint != expected[block]:
                    continue  # left by an earlier run under another config, not made again yet
                waiting.discard(block)
                done = len(todo) - len(waiting)
                took = time.monotonic() - started
                eta = took / done * len(waiting)
                say(
                    f"{block}: {commit.rows} rows, {commit.seconds_kept:.0f} of {commit.seconds_in:.0f} s kept; "
                    f"{done}/{len(todo)} blocks in {took:.0f} s, about {eta:.0f} s to go"
                )

    def watch() -> None:
        while not stop.wait(1.0):
            with suppress(OSError, ValueError):  # it is talk; the commit itself says what is wrong
                look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(OSError, ValueError):
            look()


RETRIABLE = (
    Reason.MISSING,
    Reason.UNREADABLE,
    Reason.CORRUPT,
    Reason.TRUNCATED,
    Reason.UNDECLARED,
    Reason.CRASHED,
    Reason.TIMEOUT,
    Reason.OUT_OF_MEMORY,
    Reason.FAILED,
)
"""Reasons that a repaired file, a returned disk or a bigger machine may take away; the others follow from the audio."""


def blocks_to_retry(store: Store, reasons: Sequence[str]) -> set[str]:
    """Names of the committed blocks that hold a rejection for one of `reasons`."""
    return {name for name, commit in store.commits().items() if set(commit.rejections) & set(reasons)}


def dialogue_stages_of(config: Config) -> list[Stage]:
    """The stages of synthetic dialogues: written and spoken instead of decoded, then the same way as recorded speech.

    Each turn is one utterance as it was spoken, and its text is known.
    """
    from pipeline.dialogues import stages

    spoken = config.model_copy(
        update={
            "segment": config.segment.model_copy(update={"backend": "none"}),
            "transcribe": config.transcribe.model_copy(update={"backend": "given"}),
        }
    )
    return [*stages(config.dialogues), Segment(spoken.segment, texts_given=True), *common_stages(spoken)]
