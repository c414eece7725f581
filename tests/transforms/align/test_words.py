"""Written and spoken words: every word keeps its spelling and gets a time, in order, inside the audio."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.align.words import Time, interpolate, spoken, tokens_of, with_wildcards, written


@pytest.mark.parametrize(
    ("word", "tokens"),
    [
        ("Hello,", ["hello"]),
        ("don’t", ["don't"]),
        ("“lower-case”", ["lower", "case"]),
        ("1455", ["fourteen", "fifty", "five"]),
        ("2014.", ["twenty", "fourteen"]),
        ("1,234", ["one", "thousand", "two", "hundred", "and", "thirty", "four"]),
        ("£13.60", ["thirteen", "pounds", "sixty"]),
        ("$1", ["one", "dollar"]),
        ("50%", ["fifty", "percent"]),
        ("3rd", ["third"]),
        ("3.14", ["three", "point", "one", "four"]),
        ("007", ["zero", "zero", "seven"]),
        ("&", ["and"]),
        ("R2D2", ["r", "two", "d", "two"]),
        ("—", []),
        ("🎤", []),
        ("...", []),
        ("naïve", ["naïve"]),
    ],
)
def test_words_are_said_as_people_say_them(word: str, tokens: list[str]) -> None:
    assert spoken(word) == tokens


@pytest.mark.parametrize(
    ("word", "language", "tokens"),
    [
        ("東京です123", "ja", ["東京", "です", "123"]),
        ("हिन्दी", "hi", ["हिन्दी"]),
        ("مُحَمَّد", "ar", ["مُحَمَّد"]),
        ("iPhone15是", "zh", ["iphone", "15", "是"]),
        ("L'été", "fr", ["l'été"]),
        ("50%", "de", ["fünfzig", "prozent"]),
        ("50%", "tr", ["elli"]),
        ("€13.60", "de", ["dreizehn", "euro", "sechzig"]),
        ("13,60€", "de", ["dreizehn", "euro", "sechzig"]),
        ("1€", "fr", ["un", "euro"]),
        ("1.250,50€", "it", ["milleduecentocinquanta", "euro", "cinquanta"]),
        ("$5", "es", ["cinco", "dólares"]),
        ("$5", "ru", ["пять", "долларов"]),
        ("£200", "ru", ["двести"]),
        ("£200", "sv", ["tvåhundra"]),
        ("1.000", "de", ["eintausend"]),
        ("1,000", "de", ["eintausend"]),
        ("2,5", "es", ["dos", "cinco"]),
        ("1,250", "en", ["one", "thousand", "two", "hundred", "and", "fifty"]),
        ("200€", "en", ["two", "hundred", "euros"]),
        ("&", "de", []),
        ("𝒳", "en", ["𝒳"]),
    ],
)
def test_scripts_are_kept_whole_and_apart(word: str, language: str, tokens: list[str]) -> None:
    assert spoken(word, language) == tokens


def test_what_is_no_mere_punctuation_gets_a_wildcard() -> None:
    words = ["a", "—", "🎤", "...", "b"]
    assert with_wildcards(words, *tokens_of(words)) == (["a", "", "b"], [0, 2, 4])


def test_a_language_without_number_words_keeps_its_digits() -> None:
    assert spoken("12", "xx") == ["12"]


@given(st.text(max_size=60))
def test_any_text_gives_tokens_of_letters_and_owners_in_order(text: str) -> None:
    words = text.split()
    tokens, owners = tokens_of(words)
    assert len(tokens) == len(owners)
    assert owners == sorted(owners)
    assert all(token == token.lower() and not any(c.isspace() for c in token) for token in tokens)


times = st.one_of(
    st.none(),
    st.tuples(st.floats(-1, 12), st.floats(0, 3)).map(lambda t: Time(t[0], t[0] + t[1], 0.5, "gmm")),
)


@given(st.lists(times, max_size=20), st.floats(0.1, 10))
def test_every_word_is_timed_in_order_within_the_audio(found: list[Time | None], duration_s: float) -> None:
    filled = interpolate(found, [1 + i % 4 for i in range(len(found))], duration_s)
    assert len(filled) == len(found)
    at = 0.0
    for before, after in zip(found, filled, strict=True):
        assert at <= after.start_s <= after.end_s <= duration_s
        assert after.how == ("interpolated" if before is None else "gmm")
        at = after.end_s


def test_untimed_words_share_the_gap_by_their_letters() -> None:
    around = [Time(0.0, 1.0, 0.9, "gmm"), None, None, Time(2.0, 3.0, 0.9, "gmm")]
    _, a, b, _ = interpolate(around, [1, 1, 3, 1], 4.0)
    assert (a.start_s, a.end_s, b.end_s) == (1.0, 1.25, 2.0)


def test_a_word_of_several_tokens_spans_them_and_weighs_their_scores() -> None:
    found = written(["1455", "—"], [0, 0, 0], [Time(0, 1, 1.0, "gmm"), None, Time(1, 4, 0.2, "gmm")], 5.0)
    assert [(w.text, w.start_s, w.end_s, w.how) for w in found] == [
        ("1455", 0, 4, "gmm"),
        ("—", 4, 5.0, "interpolated"),
    ]
    assert found[0].score == pytest.approx(0.4)
