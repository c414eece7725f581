"""Pronunciations: the dictionary, espeak-ng's rules, and which voice reads which script."""

import pytest

from transforms.align.g2p import _ARPABET, Lexicon, arpabet, dictionary, pronounce, voice_of
from transforms.align.head import PHONES


def test_ipa_becomes_arpabet() -> None:
    assert arpabet("tʃɔɪs") == "CH OY S"
    assert arpabet("ʃpʁɛçən") == "SH P R EH HH AH N"
    assert arpabet("ˈ˧ː") == ""


def test_only_phones_that_the_classifier_knows() -> None:
    assert {phone for phones in _ARPABET.values() for phone in phones.split()} <= set(PHONES)
    assert {phone for variants in list(dictionary().values())[:5000] for v in variants for phone in v} <= set(PHONES)


def test_unknown_words_are_pronounced_by_rule() -> None:
    found = pronounce(["blorptastic", "hello", "🎤"])
    assert found["hello"].split()[0] == "HH"
    assert len(found["blorptastic"].split()) > 6
    assert "🎤" not in found or found["🎤"]


def test_a_voice_that_is_not_there_gives_nothing() -> None:
    assert pronounce(["hello"], "xx-none") == {}


@pytest.mark.parametrize(
    ("token", "language", "voice"),
    [
        ("hello", "en", "en-us"), ("hello", "", "en-us"), ("guten", "de", "de"), ("hello", "ru", "en-us"), ("привет", "uk", "uk"),
        ("привет", "en", "ru"), ("你好", "zh", "cmn"), ("東京", "ja", ""), ("タワー", "ja", "ja"), ("שלום", "en", "he"),
        ("سلام", "fa", "fa"), ("नमस्ते", "mr", "mr"), ("hello", "xx", "en-us"), ("12", "de", "de"), ("", "en", "en-us"),
    ],
)  # fmt: skip
def test_each_script_is_read_by_a_voice_that_knows_it(token: str, language: str, voice: str) -> None:
    assert voice_of(token, language) == voice


def test_the_lexicon_knows_variants_rules_and_what_nobody_can_say() -> None:
    the, new, kanji, greeting, none = Lexicon().look_up(["the", "blorptastic", "東京", "שלום", ""], "en")
    assert ("DH", "AH") in the
    assert len(the) > 1
    assert len(new) == 1
    assert kanji  # as Mandarin, in an English text
    assert greeting[0][0] == "SH"
    assert none == []
    assert Lexicon().look_up(["東京"], "ja") == [[]]
