"""Batches: the same each time, split until only the culprit is left."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Block, Reason, Utterance
from transforms.batching import batches, map_batches


def block(lengths: list[int]) -> Block:
    made = Block(0, 16000, samples_in=sum(lengths))
    start = 0
    for n in lengths:
        made.utterances.append(Utterance("s", -1, start, start + n, np.zeros(n, np.float32), 16000))
        start += n
    return made


@given(st.lists(st.integers(1, 480_000), max_size=40), st.integers(1, 9), st.floats(1, 300))
def test_every_utterance_is_in_one_batch_within_the_limits(lengths: list[int], max_items: int, max_s: float) -> None:
    utterances = block(lengths).utterances
    groups = batches(utterances, max_items, max_s)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) <= max_items
        longest = max(utterances[i].duration_s for i in group)
        assert len(group) == 1 or longest * len(group) <= max_s
    assert groups == batches(list(utterances), max_items, max_s)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=20), st.data())
def test_only_the_culprits_are_lost_and_nothing_leaks(lengths: list[int], data: st.DataObject) -> None:
    made = block(lengths)
    bad = data.draw(st.sets(st.sampled_from(range(len(lengths)))))
    starts = {made.utterances[i].start for i in bad}
    seen: list[int] = []

    def model(batch: list[Utterance]) -> list[int]:
        if any(u.start in starts for u in batch):
            raise RuntimeError("CUDA out of memory" if len(bad) % 2 else "broken")
        return [u.start for u in batch]

    def keep(utterance: Utterance, result: int) -> None:
        assert utterance.start == result
        seen.append(result)

    map_batches(made, "units", model, keep, max_items=8)
    assert sorted(seen) == sorted(u.start for u in made.utterances)
    assert len(made.rejections) == len(bad)
    assert {r.reason for r in made.rejections} <= {Reason.OUT_OF_MEMORY if len(bad) % 2 else Reason.FAILED}
    made.check_conserved()


def test_a_model_with_little_memory_keeps_all_but_what_does_not_fit() -> None:
    """Fault 7: a model whose memory grows with the padded batch, as a GPU's does. Only the one that alone is too long is lost."""
    lengths = [16_000] * 12 + [480_000] + [32_000] * 5
    made, sizes = block(lengths), []

    def model(batch: list[Utterance]) -> list[int]:
        padded = len(batch) * max(len(u.samples) for u in batch)
        sizes.append(padded)
        if padded > 100_000:
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {padded} bytes")
        return [u.start for u in batch]

    kept: list[int] = []
    map_batches(made, "codec", model, lambda u, result: kept.append(result))
    assert len(made.utterances) == len(kept) == 17
    (lost,) = made.rejections
    assert (lost.reason, lost.seconds, lost.stage) == (Reason.OUT_OF_MEMORY, 30.0, "codec")
    assert "480000 bytes" in lost.detail
    assert max(sizes) > 100_000
    made.check_conserved()


def test_a_model_that_loses_a_result_is_found_out() -> None:
    made = block([1, 1])
    map_batches(made, "units", lambda batch: [], lambda u, r: None)
    assert "1 utterances went in and 0 results came out" in made.rejections[0].detail


def test_an_interrupt_is_not_swallowed() -> None:
    def model(batch: list[Utterance]) -> list[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_batches(block([1]), "units", model, lambda u, r: None)
