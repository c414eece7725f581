"""Batches of several sources in stated token shares, and batches made ahead in a thread."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.loader import Loader, Position
from training.packing import Batch


@dataclass(frozen=True)
class Place:
    """The next batch: the place in each source, and the tokens (positions) that each has given."""

    sources: tuple[Position, ...] = (Position(),)
    tokens: tuple[int, ...] = (0,)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Place":
        if "epoch" in fields:  # of a checkpoint from before there were several sources
            return cls((Position(**fields),))
        return cls(tuple(Position(**source) for source in fields["sources"]), tuple(fields["tokens"]))

    def next_pass(self) -> "Place":
        """The same sources, each at the beginning of its next pass."""
        return replace(self, sources=tuple(Position(source.epoch + 1) for source in self.sources))


class Mixture:
    """Takes each batch whole from the source that is furthest behind its share of the tokens.

    What comes next follows from the place alone, and so from the seed and the step.
    """

    def __init__(self, sources: Sequence[Loader], shares: Sequence[float]) -> None:
        """`shares`: of the tokens, in the order of the sources; they are scaled to a sum of 1."""
        self.sources = list(sources)
        self.shares = [share / sum(shares) for share in shares]

    def start(self) -> Place:
        return Place((Position(),) * len(self.sources), (0,) * len(self.sources))

    def train(self, place: Place) -> Iterator[tuple[Batch, Place]]:
        """Batches without end from `place`, each with the place after it."""
        streams = [source.train(at) for source, at in zip(self.sources, place.sources, strict=True)]
        positions, tokens = list(place.sources), list(place.tokens)
        while True:
            total = sum(tokens)
            behind = [share * total - given for share, given in zip(self.shares, tokens, strict=True)]
            # Of those equally far behind, as all are at the start, the largest share, and then the first.
            chosen = max(range(len(streams)), key=lambda i: (behind[i], self.shares[i], -i))
            batch, positions[chosen] = next(streams[chosen])
            tokens[chosen] += batch.n_positions
            yield batch, Place(tuple(positions), tuple(tokens))


def ahead(items: Iterator[Any], count: int) -> Generator[Any, None, None]:
    """The same items, up to `count` of them made before they are asked for, by a thread; an error comes where it belongs."""
    if not count:
        yield from items
        return
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(count)
    over = threading.Event()

    def put(entry: tuple[Any, BaseException | None]) -> None:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                made.put(entry, timeout=0.1)
                return

    def make() -> None:
        try:
            for item in items:
                put((item, None))
                if over.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        over.set()
        thread.join()
