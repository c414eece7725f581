"""The recipe of the phone classifier, on a few real clips."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Utterance
from tests.conftest import Clip
from transforms.align.fit import FitAlignOptions, collapse, fit_align, hear, phones_heard
from transforms.align.fitting import batches, distance, heldout_speakers
from transforms.align.head import N_CLASSES, Head
from transforms.align.stage import AlignOptions


def utterances(speech: list[Clip]) -> list[Utterance]:
    return [
        Utterance(
            str(clip.path), -1, 0, len(clip.samples), clip.samples, 16000,
            text=clip.text, given={"speaker": str(i % 2)},
        )
        for i, clip in enumerate(speech)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> FitAlignOptions:
    path = tmp_path_factory.mktemp("fit") / "head.safetensors"
    return FitAlignOptions(
        path=path, data="six clips, CC BY 4.0", width=16, epochs=4, batch_frames=600, heldout_every=2
    )


def test_a_fit_learns_and_gives_the_same_bytes(speech: list[Clip], options: FitAlignOptions, tmp_path: Path) -> None:
    said: list[str] = []
    short = sorted(utterances(speech), key=lambda u: u.end)[:4]
    fitted = fit_align(short, options, said.append)
    losses = [float(line.rsplit(" ", 1)[1]) for line in said if line.startswith("epoch")]
    assert len(losses) == 4
    assert losses[3] < losses[0]
    assert fitted.n_utterances > 0
    assert 0 < fitted.frame_error <= 1
    again = options.model_copy(update={"path": tmp_path / "again.safetensors"})
    fit_align(short, again, said.append)
    assert again.path.read_bytes() == options.path.read_bytes()
    head = Head.load(options.path, AlignOptions().encoder)
    assert head.about["data"] == options.data
    assert head.log_posteriors(speech[0].samples[:32000]).shape == (200, N_CLASSES)


def test_pocketsphinx_labels_every_frame_of_what_it_can_align(speech: list[Clip], options: FitAlignOptions) -> None:
    examples = hear(utterances(speech)[:2], options, lambda _: None)
    assert [e.heldout for e in examples] == [False, True]
    for example in examples:
        assert example.labels is not None
        assert len(example.labels) == len(example.mel) == 2 * len(example.encoded)
        assert 0.02 < np.mean(example.labels == 0) < 0.6
        shortest = sum(min(map(len, options)) for options in example.variants)
        longest = sum(max(map(len, options)) for options in example.variants)
        assert shortest <= len(collapse(example.labels)) <= longest


def test_nothing_to_fit_on_is_said(options: FitAlignOptions) -> None:
    with pytest.raises(ValueError, match="none of 0 utterances"):
        fit_align([], options, lambda _: None)


def test_phones_are_heard_and_counted() -> None:
    labels = np.array([0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 0, 0])
    assert collapse(labels) == [1, 1, 2]
    log_posteriors = np.log(np.eye(N_CLASSES)[labels] * 0.99 + 0.01 / N_CLASSES).astype(np.float32)
    assert phones_heard(log_posteriors, np.full(N_CLASSES, 1 / N_CLASSES, np.float32)) == [1, 1, 2]
    assert distance([1, 2, 3], [1, 3, 4]) == 2


def test_every_so_manieth_speaker_is_kept_out() -> None:
    heldout = heldout_speakers(3)
    assert [heldout(s) for s in "aabbcadec"] == [False, False, False, False, True, False, False, False, True]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=80), st.integers(1, 2000))
def test_batches_hold_every_example_once(lengths: list[int], batch_frames: int) -> None:
    groups = batches(lengths, batch_frames)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= batch_frames
