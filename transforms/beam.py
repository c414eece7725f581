"""A stage as a Beam transform. The only module of `transforms` that imports apache_beam."""

import time
from collections.abc import Iterator

import apache_beam as beam

from schemas import Block
from transforms.stage import Stage


class _StageDoFn(beam.DoFn):
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def setup(self) -> None:
        self._stage.setup()

    def process(self, block: Block) -> Iterator[Block]:
        started = time.perf_counter()
        block = self._stage(block)
        block.stage_s[self._stage.name] = block.stage_s.get(self._stage.name, 0.0) + time.perf_counter() - started
        card = self._stage.tokenizer()
        if card is not None:
            block.tokenizers[card.kind] = card
        yield block


class Apply(beam.PTransform):
    """PCollection of Blocks -> PCollection of Blocks, through one stage. Fuses with its neighbours: no audio is shuffled."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(label=stage.name)
        self._stage = stage

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        return blocks | beam.ParDo(_StageDoFn(self._stage))
