"""One pass of Whisper's encoder for several stages: the same bits, half the work, bounded memory."""

import numpy as np
import pytest
import torch

from schemas import Block, Utterance, Word
from tests.conftest import Clip
from transforms import whisper_model
from transforms.stage import Stage
from transforms.taste.stage import Taste, TasteOptions
from transforms.units.stage import Units, UnitsOptions
from transforms.whisper_model import EncoderPass, encoder_pass, load_whisper


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    made: list[Stage] = [Units(UnitsOptions()), Taste(TasteOptions())]
    for stage in made:
        stage.setup()
    return made


def block(speech: list[Clip]) -> Block:
    spoken = []
    for i, clip in enumerate(speech[:3]):
        words = [Word(text, 0.0, 0.0, 0.0, "given") for text in clip.text.lower().split()]
        # One sample short of a whole hop: TASTE hears the broken tail, units do not.
        samples = clip.samples[: len(clip.samples) // 320 * 320 - 1]
        spoken.append(Utterance(str(i), -1, 0, len(samples), samples, 16000, words=words, language="en"))
    return Block(0, 16000, utterances=spoken)


def run(stages: list[Stage], speech: list[Clip]) -> tuple[list[tuple[list[int], list[list[int]]]], int]:
    shared = encoder_pass(load_whisper("whisper-tiny").encoder)
    shared._kept.clear()
    shared._bytes, before = 0, shared.blocks_run
    made = block(speech)
    for stage in stages:
        made = stage(made)
    assert not made.rejections
    tokens = [(u.units.tolist(), u.taste_codes.tolist()) for u in made.utterances]  # type: ignore[union-attr]
    return tokens, shared.blocks_run - before


def test_units_and_taste_share_a_pass_and_give_the_same_tokens(
    stages: list[Stage], speech: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = encoder_pass(load_whisper("whisper-tiny").encoder)
    together, few = run(stages, speech)
    backwards, also_few = run(stages[::-1], speech)
    monkeypatch.setattr(shared, "_wanted", {})
    apart, many = run(stages, speech)
    assert together == apart == backwards
    # Three layers for the units and four for TASTE, or four for both.
    assert (few, also_few, many) == (3 * 4, 3 * 4, 3 * 7)


def test_what_is_kept_is_bounded_and_loses_nothing(speech: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_whisper("whisper-tiny").encoder
    made = EncoderPass(encoder)
    made.want("a", [1, 3])
    made.want("b", [2])
    first = [made.layers(clip.samples, [3])[0] for clip in speech]
    monkeypatch.setattr(whisper_model, "_KEPT_BYTES", made._bytes // 2)
    again = [made.layers(clip.samples, [3])[0] for clip in speech]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    assert made._bytes <= whisper_model._KEPT_BYTES
    assert sum(t.numel() * 4 for kept in made._kept.values() for t in kept.values()) == made._bytes


def test_alone_a_stage_keeps_nothing(speech: list[Clip]) -> None:
    made = EncoderPass(load_whisper("whisper-tiny").encoder)
    made.want("units", [3])
    states = made.layers(speech[0].samples, [0, 3])
    assert [len(s) for s in states] == [-(-len(speech[0].samples) // 320)] * 2
    assert not made._kept
    with pytest.raises(ValueError, match=r"31\.0 s of audio; the encoder reads at most 30\.0 s"):
        made.layers(np.zeros(31 * 16000, np.float32), [1])
