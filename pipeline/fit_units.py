"""`antiphon fit units`: a sample of encoder frames over all shards of a corpus, as a Beam pipeline, then k-means."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import files
from pipeline.runners import complete, value_of
from pipeline.store import Store
from schemas.errors import UserError
from transforms.units.fit import FitUnitsOptions
from transforms.units.reservoir import Reservoir

_FEWEST_HZ = 20.0
"""No encoder in use is slower. A faster one lets more frames through the bound, which costs memory, never the sample."""


class _Sample(beam.DoFn):
    """Names of shards -> one reservoir a shard, with the hash and the normalisation of the encoder that made its frames."""

    def __init__(self, corpus: str, options: FitUnitsOptions, n_frames: int) -> None:
        self._corpus, self._options, self._n_frames = corpus, options, n_frames

    def setup(self) -> None:
        from transforms.units.stage import make_encoder

        o = self._options
        self._encoder = make_encoder(o.backend, o.model, o.layer, o.normalize)

    def process(self, name: str) -> Iterator[tuple[Reservoir, str, bool | None]]:
        from pipeline.fit import utterances_of
        from transforms.units.fit import encode

        sample = Reservoir.expecting(self._options.max_frames, self._options.seed, self._n_frames)
        for utterance in utterances_of(self._corpus, name):
            sample.add(utterance.id, encode(self._encoder, utterance))
        sample.compact()
        yield sample, self._encoder.sha256, self._encoder.normalized


class Union(beam.CombineFn):
    """Reservoirs -> their union, whatever the order and the grouping."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed

    def create_accumulator(self, *args: Any, **kwargs: Any) -> tuple[Reservoir, str, bool | None]:
        return Reservoir(self._size, self._seed), "", None

    def add_input(self, mutable_accumulator: Any, element: Any, *args: Any, **kwargs: Any) -> Any:
        return self.merge_accumulators([mutable_accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        union, sha256, normalized = self.create_accumulator()
        for reservoir, of, how in accumulators:
            union.merge(reservoir)
            if of:
                sha256, normalized = of, how
        return union, sha256, normalized

    def extract_output(self, accumulator: Any, *args: Any, **kwargs: Any) -> Any:
        return accumulator


class _Write(beam.DoFn):
    """The union -> the file of centroids, and its figures beside the pipeline, for the process that started it."""

    def __init__(self, options: FitUnitsOptions, out: str, figures: str) -> None:
        self._options, self._out, self._figures = options, out, figures

    def process(self, union: tuple[Reservoir, str, bool | None]) -> Iterator[str]:
        from transforms.units.fit import quantizer_of

        reservoir, sha256, normalized = union
        lines: list[str] = []
        try:
            data, fitted = quantizer_of(reservoir, self._options, sha256, normalized, lines.append)
        except ValueError as error:
            raise UserError(str(error)) from error
        files.write(self._out, data)
        files.write(self._figures, "\n".join([*lines, str(fitted)]).encode())
        yield self._out


def fit_units_of(corpus: str, options: FitUnitsOptions, beam_args: Sequence[str], say: Any) -> str:
    """Fit centroids on all committed shards of `corpus` and write them to `options.path`. Returns the figures as a line.

    The bytes depend on the corpus, the options and the encoder only: not on the runner, the workers or the order of the shards.

    Raises UserError: too little data, a remote runner with a local file to write, or what a worker raised.
    """
    from pipeline.graph import finish

    commits = Store(corpus).commits()
    seconds = sum(commit.seconds_kept for commit in commits.values())
    n_frames = round(seconds * _FEWEST_HZ)
    out = str(options.path)
    runner = value_of(beam_args, "runner")
    if runner not in (None, "FnApiRunner", "DirectRunner", "BundleBasedDirectRunner"):
        raise UserError(f"fit units runs on local runners, and {runner} is given: its workers cannot write {out}")
    with tempfile.TemporaryDirectory() as folder:
        figures = str(Path(folder) / "figures")
        engine = complete(beam_args, corpus, [])
        pipeline = beam.Pipeline(options=PipelineOptions(engine))
        _ = (
            pipeline
            | "shards" >> beam.Create(sorted(commits))
            | "one worker each" >> beam.Reshuffle()
            | "sample" >> beam.ParDo(_Sample(corpus, options, n_frames))
            | "union" >> beam.CombineGlobally(Union(options.max_frames, options.seed))
            | "k-means" >> beam.ParDo(_Write(options, out, figures))
        )
        try:
            finish(pipeline, engine)
        except UserError as error:
            raise UserError(f"{corpus}: {error}") from error
        *lines, fitted = files.read(figures).decode().split("\n")
    for line in lines:
        say(line)
    return fitted
