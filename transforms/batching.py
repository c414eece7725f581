"""Run a model over utterances in batches of similar length; a batch that fails is split until only the culprit is left."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from schemas import Block, Reason, Utterance

Result = TypeVar("Result")


def batches(utterances: Sequence[Utterance], max_items: int, max_s: float) -> list[list[int]]:
    """Indices into `utterances`, longest first, in batches of at most `max_items` items and `max_s` padded seconds.

    Sorted by length and then by position, so the same Block always gives the same batches. One item alone may pass `max_s`.
    """
    order = sorted(range(len(utterances)), key=lambda i: (-(utterances[i].end - utterances[i].start), i))
    groups: list[list[int]] = []
    for i in order:
        # Longest first: the first item of a group is what every other one is padded to.
        if groups and len(groups[-1]) < max_items:
            longest_s = utterances[groups[-1][0]].duration_s
            if longest_s * (len(groups[-1]) + 1) <= max_s:
                groups[-1].append(i)
                continue
        groups.append([i])
    return groups


def is_out_of_memory(error: BaseException) -> bool:
    """True for Python's MemoryError, CUDA's out-of-memory error and the CPU allocator's RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def map_batches(
    block: Block,
    stage: str,
    model: Callable[[list[Utterance]], Sequence[Result]],
    keep: Callable[[Utterance, Result], None],
    *,
    max_items: int = 16,
    max_s: float = 240.0,
) -> None:
    """Run `model` over the Block's utterances in batches and hand each result to `keep`.

    A batch that raises is halved and tried again, down to one utterance; that one alone is rejected (`out_of_memory` or
    `failed`, with the error as detail) and leaves the Block. KeyboardInterrupt and SystemExit pass through.

    Args:
        model: list of B utterances -> B results, in order.
        keep: called with each utterance and its result.
    """
    lost: dict[int, tuple[Reason, str]] = {}

    def run(group: list[int]) -> None:
        try:
            results = model([block.utterances[i] for i in group])
            if len(results) != len(group):
                raise RuntimeError(f"{stage}: {len(group)} utterances went in and {len(results)} results came out")
        except Exception as error:
            if len(group) == 1:
                reason = Reason.OUT_OF_MEMORY if is_out_of_memory(error) else Reason.FAILED
                lost[group[0]] = (reason, f"{type(error).__name__}: {error}"[:500])
                return
            half = len(group) // 2
            run(group[:half])
            run(group[half:])
            return
        for i, result in zip(group, results, strict=True):
            keep(block.utterances[i], result)

    for group in batches(block.utterances, max_items, max_s):
        run(group)
    for i in sorted(lost):
        block.reject(block.utterances[i], stage, *lost[i])
    if lost:
        block.utterances = [u for i, u in enumerate(block.utterances) if i not in lost]
