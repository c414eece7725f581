"""The job as a sentence: what happens to a Block, from plan to commit."""

import contextlib
import ctypes
import logging
import re
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.runners import watched
from pipeline.store import Store
from schemas import Block, Commit
from schemas.errors import UserError
from transforms.beam import Apply
from transforms.stage import Stage


class _CommitDoFn(beam.DoFn):
    def __init__(self, out: str, fingerprints: Mapping[str, str], formats: Sequence[str]) -> None:
        self._out = out
        self._fingerprints = dict(fingerprints)
        self._formats = list(formats)

    def process(self, block: Block) -> Iterator[Commit]:
        record = Store(self._out).commit(block, self._fingerprints[block.name], self._formats)
        block.utterances.clear()
        _give_back_memory()
        yield record


def _give_back_memory() -> None:
    """Have glibc return to the system what the last block left free; otherwise a long run's memory grows from block to block."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def run(
    blocks: Sequence[Block],
    stages: Sequence[Stage],
    out: str,
    fingerprints: Mapping[str, str],
    formats: Sequence[str],
    beam_args: Sequence[str],
) -> None:
    """Send `blocks` through `stages` and commit each under `out`. Blocks until the runner is done.

    Only the planned Blocks (names and numbers, no audio) pass the one shuffle; from there to the commit everything fuses, so
    audio stays on the worker that decoded it.

    Args:
        fingerprints: block name -> fingerprint, for the commit records.
        beam_args: Beam's own options, as `pipeline.runners.complete` gives them.

    Raises UserError where a worker raised one (a full disk, missing weights), and otherwise what Beam raises.
    """
    pipeline = beam.Pipeline(options=PipelineOptions(list(beam_args)))
    planned = pipeline | "plan" >> beam.Create(list(blocks)) | "one worker each" >> beam.Reshuffle()
    for stage in stages:
        planned = planned | Apply(stage)
    _ = planned | "commit" >> beam.ParDo(_CommitDoFn(out, fingerprints, formats))
    finish(pipeline, beam_args)


def finish(pipeline: beam.Pipeline, beam_args: Sequence[str]) -> None:
    """Run a pipeline to its end. Raises UserError where a worker raised one, and otherwise what Beam raises."""
    logger, quiet = logging.getLogger("apache_beam.runners.common"), _Quiet()
    logger.addFilter(quiet)
    try:
        with watched(beam_args):
            pipeline.run().wait_until_finish()
    except Exception as error:
        message = told(error)
        if message is None:
            raise
        raise UserError(message) from error
    finally:
        logger.removeFilter(quiet)


class _Quiet(logging.Filter):
    """Keeps Beam from logging a traceback for what is told in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], UserError))


def told(error: Exception) -> str | None:
    """The message of the UserError behind an error of Beam's, which hands on a worker's traceback as text; None without one."""
    if isinstance(error, UserError):
        return _plain(str(error))
    names = {kind.__name__ for kind in _kinds(UserError)}
    for line in str(error).splitlines():
        found = re.match(r"(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*): (.+)", line)
        if found and found[1] in names:
            return _plain(found[2])
    return None


def _plain(message: str) -> str:
    """Without the name of the transform, which Beam adds."""
    return re.sub(r" \[while running '[^']*'\]\Z", "", message)


def _kinds(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _kinds(inner)
