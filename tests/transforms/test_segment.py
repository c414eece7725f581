"""Utterances: within their limits, cut only in silence, and every sample accounted for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Block, Piece, Reason
from tests.conftest import Clip
from transforms.segment import Segment, SegmentOptions, Span, merge, pad, regions, shorten
from transforms.weights import MissingWeights


def stage(**options: object) -> Segment:
    made = Segment(SegmentOptions(**options))  # type: ignore[arg-type]
    try:
        made.setup()
    except MissingWeights as error:
        pytest.skip(str(error))
    return made


def segmented(samples: np.ndarray, given: dict[str, object] | None = None, **options: object) -> Block:
    block = Block(0, 16000, samples_in=len(samples))
    block.pieces = [
        Piece("talk.wav", "talk.wav", "f", given=given or {}, samples={-1: samples.astype(np.float32)}, offset=777)
    ]
    done = stage(**options)(block)
    done.check_conserved()
    assert all(not piece.samples for piece in done.pieces)
    return done


def test_a_short_clip_is_one_utterance_and_keeps_its_words(speech: list[Clip]) -> None:
    for clip in speech[:3]:
        (utterance,) = segmented(clip.samples).utterances
        assert utterance.duration_s > 0.8 * len(clip.samples) / 16000
        assert utterance.start >= 777


def test_speakers_apart_are_cut_in_the_pause_between_them(speech: list[Clip]) -> None:
    pause = np.random.default_rng(0).normal(0, 1e-4, 16000 * 4)
    whole = np.concatenate([pause, speech[0].samples, pause, speech[1].samples, pause])
    first, second = segmented(whole).utterances
    a, b = 64000 + 777, 64000 + 777 + len(speech[0].samples)
    assert a - 6400 < first.start < a + 16000
    assert b - 16000 < first.end < b + 6400 < second.start
    assert second.start > b + 64000 - 6400


def test_silence_and_noise_give_no_utterance() -> None:
    silent = segmented(np.zeros(16000 * 3))
    assert not silent.utterances
    assert [r.reason for r in silent.rejections] == [Reason.SILENT]
    noise = segmented(np.random.default_rng(0).normal(0, 0.05, 16000 * 5))
    assert not noise.utterances
    assert {r.reason for r in noise.rejections} == {Reason.NO_SPEECH}


def test_speech_that_is_too_short_says_so(speech: list[Clip]) -> None:
    block = segmented(speech[0].samples, min_s=29.0)
    assert not block.utterances
    assert Reason.TOO_SHORT in {r.reason for r in block.rejections}


def test_long_speech_is_cut_under_the_limit(speech: list[Clip]) -> None:
    whole = np.concatenate([clip.samples for clip in speech])
    block = segmented(whole, max_s=10.0, max_gap_s=60.0)
    assert len(block.utterances) >= len(whole) / 160000 - 1
    assert all(1.0 <= u.duration_s <= 10.0 for u in block.utterances)


def test_none_takes_a_piece_as_it_is_and_hands_on_what_was_given(speech: list[Clip]) -> None:
    given = {
        "speaker": "7",
        "dialogue_id": "d",
        "turn": 2,
        "role": "user",
        "origin": "tts",
        "language": "en",
        "split": "heldout",
    }
    (utterance,) = segmented(speech[0].samples, given=given, backend="none").utterances
    assert (utterance.start, utterance.end) == (777, 777 + len(speech[0].samples))
    assert (utterance.origin, utterance.language, utterance.split) == ("tts", "en", "heldout")
    assert utterance.columns["turn"] == 2
    assert utterance.columns["role"] == "user"


spans = (
    st.lists(st.integers(0, 400_000), min_size=2, max_size=24, unique=True)
    .map(sorted)
    .map(lambda v: [Span(a, b) for a, b in zip(v[::2], v[1::2], strict=False)])
)


@given(spans, st.integers(0, 60_000), st.floats(1, 30), st.floats(0, 1))
@settings(deadline=None)
def test_cutting_loses_no_speech_and_keeps_order_and_limits(
    found: list[Span], gap: int, max_s: float, margin_s: float
) -> None:
    voiced = np.random.default_rng(len(found)).random(400_000 // 512 + 2)
    longest = int(max_s * 16000)
    short = shorten(found, voiced, 16000, max_s)
    assert sum(s.end - s.start for s in short) == sum(s.end - s.start for s in found)
    merged = merge(short, gap, longest)
    padded = pad(merged, round(margin_s * 16000), longest, 420_000)
    assert all(s.end - s.start <= longest for s in padded)
    at = 0
    for before, after in zip(merged, padded, strict=True):
        assert at <= after.start <= before.start <= before.end <= after.end <= 420_000
        at = after.end


def test_hysteresis_bridges_short_dips_and_ends_in_long_ones() -> None:
    p = np.array([0.1, 0.6, 0.4, 0.2, 0.2, 0.6, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1])
    assert regions(p, 0.5, 512, 10**6) == [Span(512, 6 * 512), Span(10 * 512, 11 * 512)]
    assert regions(p, 0.5, 512, 5200) == [Span(512, 3072), Span(5120, 5200)]
    assert regions(np.zeros(0), 0.5, 512, 0) == []


def test_audio_with_a_text_of_its_own_stays_whole_or_is_turned_away(speech: list[Clip]) -> None:
    pause = np.random.default_rng(0).normal(0, 1e-4, 16000 * 4)
    whole = np.concatenate([speech[0].samples, pause, speech[1].samples]).astype(np.float32)
    made = Segment(SegmentOptions(backend="none"), texts_given=True)
    made.setup()

    def run(samples: np.ndarray, given: dict[str, object]) -> Block:
        block = Block(0, 16000, samples_in=len(samples))
        block.pieces = [Piece("a", "a", "f", given=given, samples={-1: samples})]
        done = made(block)
        done.check_conserved()
        return done

    (utterance,) = run(whole[: 16000 * 29], {"text": "one two"}).utterances
    assert utterance.given["text"] == "one two"
    for samples, fields in (
        (np.tile(whole, 3)[: 16000 * 31], {"text": "one"}),
        (whole, {"text": "one", "text_s": 40.0}),
    ):
        done = run(samples, fields)
        assert not done.utterances
        assert [r.reason for r in done.rejections] == [Reason.TOO_LONG]
    assert len(run(np.tile(whole, 3)[: 16000 * 31], {}).utterances) == 2
