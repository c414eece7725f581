"""Conversations made of known voices, the fit of the overlap detector on them, and what is done with overlap."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Utterance
from tests.conftest import read_clips
from transforms.align.head import WrongHead
from transforms.speaker.clustering import Turn
from transforms.speaker.fit_overlap import FitOverlapOptions, by_speaker, conversation, fit_overlap, measure
from transforms.speaker.overlap import OverlapDetector, spans, with_second
from transforms.weights import locate


@pytest.fixture(scope="module")
def said(shared: Path) -> list[Utterance]:
    """Two clips each of four readers, 4 s of each."""
    found = []
    for clip in read_clips("librispeech-test-other.jsonl", 24)[::3]:
        samples = clip.samples[: 4 * 16000]
        found.append(Utterance(str(clip.path), -1, 0, len(samples), samples, 16000))
        found[-1].given = {"speaker": clip.line["speaker"]}
    assert len({u.given["speaker"] for u in found}) == 4
    return found


def options(path: Path) -> FitOverlapOptions:
    return FitOverlapOptions(
        path=path, data="four readers, CC BY 4.0", width=8, epochs=3, hours=0.01, length_s=6, heldout_every=4
    )


def test_a_conversation_is_labelled_by_who_is_heard(said: list[Utterance], tmp_path: Path) -> None:
    voices = by_speaker(said, 4)
    assert [kept_out for kept_out, _ in voices.values()] == [False, False, False, True]
    speakers = [own for _, own in voices.values()]
    made = [conversation(speakers, options(tmp_path / "x"), np.random.default_rng(i)) for i in range(6)]
    counts = np.zeros(3, int)
    for samples, labels in made:
        assert len(samples) == 96000
        assert len(labels) == 600
        counts += np.bincount(labels, minlength=3)
        frames = np.square(samples).reshape(600, 160).mean(axis=1)
        assert frames[labels > 0].mean() > 1.5 * frames[labels == 0].mean()
    assert (counts > 150).all()
    again = conversation(speakers, options(tmp_path / "x"), np.random.default_rng(0))
    np.testing.assert_array_equal(again[0], made[0][0])


def test_a_fit_learns_and_gives_the_same_bytes(said: list[Utterance], tmp_path: Path) -> None:
    lines: list[str] = []
    first, second = options(tmp_path / "a.safetensors"), options(tmp_path / "b.safetensors")
    fitted = fit_overlap(said, first, lines.append)
    losses = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("epoch")]
    assert losses[-1] < losses[0]
    assert fitted.n_conversations == 6
    assert 0 < fitted.share < 1
    fit_overlap(said, second, lines.append)
    assert first.path.read_bytes() == second.path.read_bytes()
    found = OverlapDetector(first.path, "whisper-tiny").voices(said[0].samples)
    assert found.shape == (400, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(WrongHead, match="a head of phones, and one of voices is asked for"):
        OverlapDetector(locate("antiphon-phones").path, "whisper-tiny")
    with pytest.raises(ValueError, match="1 speakers to fit on"):
        fit_overlap(said[:2], options(tmp_path / "c.safetensors"), lines.append)


def test_precision_and_recall_are_counted_in_frames() -> None:
    labels = np.repeat([0, 1, 2, 1], 100)
    found = np.eye(3)[labels]
    assert measure([found], [labels]) == (
        pytest.approx(1 / 3),
        pytest.approx(1.0, abs=0.1),
        pytest.approx(1.0, abs=0.1),
        0.0,
    )
    nothing = np.eye(3)[np.minimum(labels, 1)]
    assert measure([nothing], [labels])[1:] == (0.0, 0.0, 0.0)


@given(st.lists(st.booleans(), max_size=60), st.floats(0.05, 0.95))
def test_spans_are_in_order_and_within(blocks: list[bool], threshold: float) -> None:
    probabilities = np.repeat(np.array(blocks, float), 10)
    found = spans(probabilities, threshold)
    edges = [edge for span in found for edge in span]
    assert edges == sorted(edges)
    assert all(0 <= edge <= len(probabilities) / 100 for edge in edges)
    if all(blocks) and blocks:
        assert found == [(0.0, len(blocks) / 10)]
    if not any(blocks):
        assert found == []


def test_overlap_goes_to_the_nearest_other_speaker() -> None:
    turns = [Turn(0.0, 4.0, 0), Turn(4.5, 6.0, 1), Turn(9.0, 12.0, 2)]
    assert with_second(turns, [(3.0, 3.5)]) == [turns[0], Turn(3.0, 3.5, 1), *turns[1:]]
    assert with_second(turns, [(11.0, 20.0)])[-1] == Turn(11.0, 12.0, 1)
    # Over the border of two turns, each is the other's second; where nobody speaks nothing is added.
    assert set(with_second(turns, [(3.5, 5.0)])) - set(turns) == {Turn(3.5, 4.0, 1), Turn(4.5, 5.0, 0)}
    assert with_second(turns[:1], [(1.0, 2.0)]) == turns[:1]
    assert with_second([], [(1.0, 2.0)]) == []
