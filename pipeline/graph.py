"""The job as a sentence: what happens to a Block, from plan to commit."""

from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.store import Store
from schemas import Block, Commit
from transforms.beam import Apply
from transforms.stage import Stage


class _CommitDoFn(beam.DoFn):
    def __init__(self, out: str, fingerprints: Mapping[str, str], formats: Sequence[str]) -> None:
        self._out = out
        self._fingerprints = dict(fingerprints)
        self._formats = list(formats)

    def process(self, block: Block) -> Iterator[Commit]:
        yield Store(self._out).commit(block, self._fingerprints[block.name], self._formats)


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
    """
    with beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline:
        planned = pipeline | "plan" >> beam.Create(list(blocks)) | "one worker each" >> beam.Reshuffle()
        for stage in stages:
            planned = planned | Apply(stage)
        _ = planned | "commit" >> beam.ParDo(_CommitDoFn(out, fingerprints, formats))
