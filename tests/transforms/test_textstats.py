"""Statistics of texts: what holds for any text, and what loops, scripts and gaps come to."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Word
from tests.conftest import SHARED, Clip
from transforms import textstats

texts = st.text(max_size=200)
distinct = st.lists(st.integers(0, 10**6), min_size=3, max_size=12, unique=True).map(lambda ns: [f"w{n}" for n in ns])


@given(texts)
def test_any_text_has_statistics_within_their_bounds(text: str) -> None:
    tokens, _ = textstats.tokens(text)
    assert 0 <= textstats.repeat_share(text) <= 1
    assert 1 <= textstats.loops(text) <= max(1, len(tokens))
    assert textstats.letters(text) >= sum(map(str.isalnum, text))


@given(distinct, st.integers(1, 6))
def test_k_copies_after_the_first_are_k_parts_of_k_plus_one(words: list[str], k: int) -> None:
    text = " ".join(words * (k + 1))
    assert textstats.repeat_share(text) == pytest.approx(k / (k + 1))
    assert textstats.loops(text) == k + 1
    assert textstats.repeat_share(" ".join(words)) == 0
    assert textstats.loops(" ".join(words)) == 1


@given(distinct, st.integers(2, 6))
def test_case_and_punctuation_hide_no_loop(words: list[str], k: int) -> None:
    plain = " ".join(words * k)
    dressed = " ".join(w.upper() + "," if i % 2 else w + "!" for i, w in enumerate(words * k))
    assert textstats.repeat_share(dressed) == textstats.repeat_share(plain)
    assert textstats.loops(dressed) == textstats.loops(plain)


def test_scripts_without_spaces_are_read_by_the_character() -> None:
    said = "今日はとても良い天気ですね散歩に行きましょう"
    assert textstats.repeat_share(said) == 0
    assert textstats.repeat_share(said + "ご視聴ありがとうございました" * 4) > 0.45
    assert textstats.loops(said + "ご視聴ありがとうございました" * 4) == 4
    assert textstats.loops("спасибо за просмотр " * 5) == 5
    assert textstats.letters("北京") == 6 == textstats.letters("Beijin")
    assert textstats.letters("서울!") == 6


def test_written_prose_does_not_repeat_itself(shared: object) -> None:
    """Of the first 2,000 sentences of LJSpeech next to none come near a loop."""
    lines = (SHARED / "data" / "text" / "ljspeech-sentences.csv").read_text().splitlines()[:2000]
    said = [line.split("|")[2] for line in lines]
    assert max(map(textstats.repeat_share, said)) < 0.45
    assert max(map(textstats.loops, said)) <= 3


def test_what_readers_say_does_not_repeat_itself(speech: list[Clip], ljspeech: list[Clip]) -> None:
    for clip in [*speech, *ljspeech]:
        assert textstats.repeat_share(clip.text) < 0.2
        assert 5 < textstats.letters(clip.text) * clip.rate_hz / len(clip.samples) < 20


spans = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)).map(sorted), max_size=8)


@given(spans, st.randoms())
def test_the_longest_gap_is_what_the_words_leave(found: list[list[float]], random: object) -> None:
    words = [Word("a", start, end, 0.5, "ctc") for start, end in found]
    gap = textstats.longest_gap_s(words, 10.0)
    covered = sum(end - start for start, end in found)
    assert max(0.0, 10 - covered) / (len(words) + 1) - 1e-9 <= gap <= 10
    random.shuffle(words)  # type: ignore[attr-defined]
    assert textstats.longest_gap_s(words, 10.0) == gap


def test_gaps_before_between_and_after_words() -> None:
    words = [Word("somebody", 1.0, 2.0, 0.9, "ctc"), Word("went", 4.5, 5.0, 0.05, "ctc")]
    assert textstats.longest_gap_s(words, 6.0) == 2.5
    assert textstats.longest_gap_s(words, 9.0) == 4.0
    assert textstats.longest_gap_s([], 9.0) == 9.0
    assert textstats.low_share(words, 0.1) == 0.5
    assert textstats.low_share([], 0.1) == 0.0


def test_a_word_stretched_over_seconds_hides_no_gap() -> None:
    assert textstats.longest_gap_s([Word("a", 0.0, 6.0, 0.9, "ctc")], 6.0) == pytest.approx(5.6)
    assert textstats.longest_gap_s([Word("1,234,567", 0.0, 3.0, 0.9, "ctc")], 3.0) == pytest.approx(0.0)


@given(st.lists(st.tuples(st.sampled_from(["en", "de", "zh"]), st.floats(0.1, 30)), max_size=9))
def test_shares_of_languages_sum_to_one(spoken: list[tuple[str, float]]) -> None:
    shares = textstats.language_shares(spoken)
    assert set(shares) == {language for language, _ in spoken}
    assert not shares or math.isclose(sum(shares.values()), 1.0)


def said(lengths_s: list[float]) -> list[Word]:
    """Words of four letters, one after another."""
    edges = [sum(lengths_s[:i]) for i in range(len(lengths_s) + 1)]
    return [Word("word", a, b, 0.9, "ctc") for a, b in itertools.pairwise(edges)]


@given(st.lists(st.floats(0.05, 3.0), min_size=1, max_size=20), st.floats(0.1, 60.0))
def test_untold_speech_is_a_share(lengths_s: list[float], voiced_s: float) -> None:
    found = textstats.untold_share(said(lengths_s), voiced_s)
    assert 0 <= found <= 1
    assert found >= 1 - sum(lengths_s) / voiced_s - 1e-9
    assert textstats.untold_share([], voiced_s) == 0


@pytest.mark.parametrize("pace", [1.0, 1.8, 2.9])
def test_speech_without_words_is_untold_at_any_pace(pace: float) -> None:
    usual_s = 0.41 * pace
    assert textstats.untold_share(said([usual_s] * 10), 10 * usual_s) == pytest.approx(0)
    # A gap, and a last word stretched over the same speech, of which it may fill half a word more.
    assert textstats.untold_share(said([usual_s] * 10), 20 * usual_s) == pytest.approx(0.5)
    assert textstats.untold_share(said([usual_s] * 9 + [11 * usual_s]), 20 * usual_s) == pytest.approx(0.475)
    assert textstats.untold_share(said([9.0]), 9.0) > 0.75
