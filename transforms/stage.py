"""The contract of a stage: a function from Block to Block, with what it needs said outright.

A stage is made from its options (cheap, anywhere), set up once in each process that runs it (loads its model), and then
called with one Block after another. `transforms.beam.Apply` makes a Beam transform of it.
"""

import abc
from typing import Any, ClassVar

from schemas import Block, Tokenizer
from transforms.options import Options


class Stage(abc.ABC):
    """One step of the way from audio to shard.

    Subclasses set `name` and `version`, take their options in `__init__` (without importing anything heavy), load models in
    `setup`, and transform a Block in `__call__`. A stage never drops an utterance without `Block.reject`.
    """

    name: ClassVar[str]
    """Its name in the config, in `Rejection.stage` and in the log."""

    version: ClassVar[int] = 1
    """Raised whenever the same input gives other output, so that shards made before are made again."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def setup(self) -> None:
        """Load what the stage needs. Called once a process, before the first Block."""

    @abc.abstractmethod
    def __call__(self, block: Block) -> Block:
        """Transform one Block, in place or not, and return it."""

    def fingerprint(self) -> dict[str, Any]:
        """What its output depends on beyond the Block: JSON-able, without loading a model. Include weights' sha256."""
        return {
            "name": self.name,
            "version": self.version,
            "options": self.options.model_dump(mode="json"),
            "weights": self.weights(),
        }

    def weights(self) -> dict[str, str]:
        """name -> sha256 of each weight file it will load (`transforms.weights.locate(name).sha256`)."""
        return {}

    def tokenizer(self) -> Tokenizer | None:
        """The card of the token stream it writes, where it writes one. Called after `setup`."""
        return None
