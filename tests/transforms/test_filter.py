"""Faulty transcripts of real speech: each ends under its own reason, and what was really said stays."""

import numpy as np
import pytest

from schemas import Block, Piece, Reason, Utterance, Word
from tests.conftest import Clip
from transforms.align.stage import Align, AlignOptions
from transforms.filter import Filter, FilterOptions
from transforms.segment import Segment, SegmentOptions

RATE_HZ = 16000


@pytest.fixture(scope="module")
def aligner() -> Align:
    stage = Align(AlignOptions())
    stage.setup()
    return stage


@pytest.fixture(scope="module")
def segment() -> Segment:
    stage = Segment(SegmentOptions())
    stage.setup()
    return stage


def cut(segment: Segment, recordings: list[np.ndarray]) -> Block:
    """The utterances that the VAD finds in each recording."""
    pieces = [Piece(f"{i}.wav", "", "", samples={-1: samples}) for i, samples in enumerate(recordings)]
    block = Block(0, RATE_HZ, pieces=pieces, samples_in=sum(map(len, recordings)))
    return segment(block)


def filtered(aligner: Align, block: Block, texts: list[str], language: str = "en") -> Block:
    assert len(block.utterances) == len(texts)
    for utterance, text in zip(block.utterances, texts, strict=True):
        utterance.text, utterance.language = text, language
    done = Filter(FilterOptions(), "joint")(aligner(block))
    done.check_conserved()
    return done


def reasons(block: Block) -> set[Reason]:
    return {r.reason for r in block.rejections if r.stage == "filter"}


@pytest.fixture(scope="module")
def clips(speech: list[Clip]) -> list[Clip]:
    return sorted(speech, key=lambda clip: len(clip.samples))[:4]


def test_what_was_said_stays_and_its_columns_say_so(aligner: Align, segment: Segment, clips: list[Clip]) -> None:
    block = cut(segment, [clip.samples for clip in clips])
    done = filtered(aligner, block, [clip.text.lower() for clip in clips])
    assert len(done.utterances) == len(clips)
    for u in done.utterances:
        assert 0.4 * u.duration_s < float(u.columns["quality_voiced_s"]) <= u.duration_s
        assert float(u.columns["text_chars_per_s"]) < 20
        assert float(u.columns["align_low_share"]) <= 0.15
        assert float(u.columns["align_gap_s"]) < 2.5
        assert u.columns["text_loops"] == 1
        assert u.columns["text_language_share"] == 1.0


def test_a_loop_behind_what_was_said_repeats(aligner: Align, segment: Segment, clips: list[Clip]) -> None:
    texts = [" ".join([text := clip.text.lower(), *text.split()[-3:] * 9]) for clip in clips]
    done = filtered(aligner, cut(segment, [clip.samples for clip in clips]), texts)
    assert not done.utterances
    assert reasons(done) == {Reason.REPEATS}


def test_more_than_the_voice_can_hold_is_too_fast(aligner: Align, segment: Segment, clips: list[Clip]) -> None:
    """Two long transcripts in a row on the shortest clip: no loop, and more letters than were spoken."""
    text = f"{clips[-1].text} {clips[-2].text} {clips[0].text}".lower()
    done = filtered(aligner, cut(segment, [clips[0].samples]), [text])
    assert reasons(done) == {Reason.TOO_FAST}
    assert "text_chars_per_s" in done.rejections[-1].detail


def test_silence_does_not_make_room_for_words(segment: Segment, clips: list[Clip]) -> None:
    """The rate is one of voiced time: 0.7 s of silence inside an utterance change its length, and not its rate."""
    a, b = clips[0].samples, clips[1].samples
    joined = cut(segment, [np.concatenate([a, b])]).utterances[0]
    apart = cut(segment, [np.concatenate([a, np.zeros(7 * RATE_HZ // 10, np.float32), b])]).utterances[0]
    assert apart.duration_s == pytest.approx(joined.duration_s + 0.7, abs=0.05)
    assert float(apart.columns["quality_voiced_s"]) == pytest.approx(float(joined.columns["quality_voiced_s"]), abs=0.3)


def test_a_stretch_without_a_word_is_uncovered_where_a_vad_has_cut() -> None:
    block = said_in(("a", "en", 0.9), ("b", "en", 0.9))
    for u in block.utterances:
        u.words = [Word("one", 0, 0.4, 0.9, "ctc"), Word("word", 1.9, 2.0, 0.9, "ctc")]
    block.utterances[0].columns["quality_voiced_s"] = 1.9
    done = Filter(FilterOptions(max_align_gap_s=1.4), "joint")(block)
    assert [(r.source, r.reason) for r in done.rejections] == [("a", Reason.UNCOVERED)]
    assert [u.source for u in done.utterances] == ["b"]


def test_a_text_without_its_second_half_is_uncovered(aligner: Align, segment: Segment, clips: list[Clip]) -> None:
    texts = [clip.text.lower().split() for clip in clips]
    halves = [" ".join(words[: len(words) // 2]) for words in texts]
    done = filtered(aligner, cut(segment, [clip.samples for clip in clips]), halves)
    assert len(done.utterances) <= 1
    assert Reason.UNCOVERED in reasons(done) <= {Reason.UNCOVERED, Reason.UNALIGNED}
    loose = FilterOptions(max_untold_share=None, max_align_gap_s=None, min_align_score=None, max_low_share=None)
    block = cut(segment, [clip.samples for clip in clips])
    for utterance, text in zip(block.utterances, halves, strict=True):
        utterance.text, utterance.language = text, "en"
    assert len(Filter(loose, "joint")(aligner(block)).utterances) == len(clips)


def test_a_floor_for_single_words_is_set_where_it_was_measured() -> None:
    for aligner, language, reasons_ in (("joint", "en", [Reason.UNALIGNED]), ("ctc", "en", []), ("joint", "de", [])):
        block = said_in(("a", language, 0.9))
        block.utterances[0].words[1].score = 0.01
        assert [r.reason for r in Filter(FilterOptions(), aligner)(block).rejections] == reasons_


def said_in(*languages: tuple[str, str, float | None]) -> Block:
    """Utterances of 2 s, each (recording, language, probability), which fail nothing else."""
    block = Block(0, RATE_HZ)
    for i, (source, language, probability) in enumerate(languages):
        samples = np.zeros(2 * RATE_HZ, np.float32)
        u = Utterance(source, -1, i * len(samples), (i + 1) * len(samples), samples, RATE_HZ, language=language)
        u.text, u.words = "one word", [Word("one", 0, 1, 0.9, "ctc"), Word("word", 1, 2, 0.9, "ctc")]
        if probability is not None:
            u.columns["asr_language_prob"] = probability
        block.utterances.append(u)
    block.samples_in = 2 * RATE_HZ * len(languages)
    return block


def test_an_unsure_flip_of_language_goes_and_a_sure_one_stays() -> None:
    own = [("a", "en", 0.4), ("a", "en", 0.9), ("b", "cy", 0.3)]
    block = Filter(FilterOptions(), "joint")(said_in(*own, ("a", "cy", 0.3), ("a", "de", 0.95)))
    assert [(u.source, u.language) for u in block.utterances] == [("a", "en"), ("a", "en"), ("b", "cy"), ("a", "de")]
    assert [r.reason for r in block.rejections] == [Reason.OTHER_LANGUAGE]
    assert "asr_language_prob 0.30 < 0.50" in block.rejections[0].detail
    block.check_conserved()
    assert Filter(FilterOptions(min_language_prob=None), "joint")(said_in(*own, ("a", "cy", 0.3))).rejections == []


def test_a_language_that_was_given_is_no_flip() -> None:
    block = Filter(FilterOptions(), "joint")(said_in(("a", "en", 0.9), ("a", "en", 0.9), ("a", "cy", None)))
    assert len(block.utterances) == 3
