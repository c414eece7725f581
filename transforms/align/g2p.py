"""How words are said, as ARPAbet phones: the CMU dictionary for English, espeak-ng's rules for all else, in any language."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from transforms.espeak import EspeakError, phonemes

# IPA as espeak-ng writes it -> CMU ARPAbet. Sounds that English lacks go to the nearest that it has.
_ARPABET = {
    "aɪə": "AY AH", "aɪɚ": "AY ER", "tʃ": "CH", "dʒ": "JH", "eɪ": "EY", "aɪ": "AY", "ɔɪ": "OY", "aʊ": "AW", "oʊ": "OW",
    "əʊ": "OW", "ɪɹ": "IH R", "ɛɹ": "EH R", "ʊɹ": "UH R", "ɔːɹ": "AO R", "oːɹ": "AO R", "ɑːɹ": "AA R", "ɜː": "ER", "əl": "AH L",
    "iː": "IY", "uː": "UW", "ɑː": "AA", "ɔː": "AO", "ɚ": "ER", "ɝ": "ER", "i": "IY", "ɪ": "IH", "ᵻ": "IH", "e": "EH", "ɛ": "EH",
    "æ": "AE", "a": "AE", "ʌ": "AH", "ə": "AH", "ɐ": "AH", "ʊ": "UH", "u": "UW", "o": "OW", "ɔ": "AO", "ɒ": "AA", "ɑ": "AA",
    "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "ɡ": "G", "g": "G", "f": "F", "v": "V", "θ": "TH", "ð": "DH", "s": "S",
    "z": "Z", "ʃ": "SH", "ʒ": "ZH", "h": "HH", "m": "M", "n": "N", "ŋ": "NG", "l": "L", "ɹ": "R", "r": "R", "j": "Y", "w": "W",
    "ɾ": "T", "ʔ": "T", "x": "K", "ɬ": "L", "n̩": "AH N",
    "aː": "AA", "eː": "EY", "oː": "OW", "y": "UW", "ʏ": "UH", "ø": "ER", "œ": "ER", "ɜ": "AH", "ɞ": "ER", "ɘ": "AH", "ɵ": "ER",
    "ɨ": "IH", "ʉ": "UW", "ɯ": "UW", "ɤ": "AH", "ɶ": "AA", "ɑ̃": "AA N", "ɔ̃": "AO N", "ɛ̃": "AE N", "œ̃": "AH N", "ã": "AA N",
    "ç": "HH", "ɕ": "SH", "ʑ": "ZH", "ʂ": "SH", "ʐ": "ZH", "tɕ": "CH", "dʑ": "JH", "tʂ": "CH", "dʐ": "JH", "ts": "T S",
    "c": "K", "ɟ": "JH", "ɲ": "N Y", "ʎ": "L Y", "ʝ": "Y", "χ": "HH", "ɣ": "G", "ʁ": "R", "ʀ": "R", "ħ": "HH", "ʕ": "AA",
    "ɸ": "F", "β": "V", "ʋ": "V", "ɱ": "M", "ʈ": "T", "ɖ": "D", "ɳ": "N", "ɭ": "L", "ɽ": "R", "ɻ": "R", "ɫ": "L", "q": "K",
    "ɴ": "NG", "ɥ": "Y", "ɰ": "W", "ɦ": "HH", "ʍ": "W", "ɺ": "R", "ɢ": "G", "ʌʊ": "AW", "ɓ": "B", "ɗ": "D",
}  # fmt: skip
_ARPABET = {unicodedata.normalize("NFD", ipa): phones for ipa, phones in _ARPABET.items()}
_LONGEST = max(map(len, _ARPABET))

# Where another script than the language's own turns up, it is read as the language that uses it most.
_VOICES = {
    "CJK": "cmn", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CYRILLIC": "ru", "ARABIC": "ar", "HEBREW": "he",
    "DEVANAGARI": "hi", "GREEK": "el", "ARMENIAN": "hy", "GEORGIAN": "ka", "THAI": "th", "BENGALI": "bn", "TAMIL": "ta",
    "TELUGU": "te", "GUJARATI": "gu", "KANNADA": "kn", "MALAYALAM": "ml", "GURMUKHI": "pa", "LATIN": "en-us",
}  # fmt: skip
_WRITTEN_IN = {
    "CJK": {"zh", "yue", "hak"}, "HIRAGANA": {"ja"}, "KATAKANA": {"ja"}, "HANGUL": {"ko"}, "GREEK": {"el", "grc"},
    "CYRILLIC": {"ru", "uk", "be", "bg", "mk", "sr", "kk", "ky", "tt", "ba", "cv"}, "ARABIC": {"ar", "fa", "ur", "sd", "ug"},
    "HEBREW": {"he"}, "DEVANAGARI": {"hi", "mr", "ne", "kok"}, "BENGALI": {"bn", "as"},
}  # fmt: skip
_ESPEAK_NAMES = {"en": "en-us", "zh": "cmn", "no": "nb", "nn": "nb", "iw": "he", "jw": "id", "tl": "id", "": "en-us"}

Phones = tuple[str, ...]


def arpabet(ipa: str) -> str:
    """IPA -> ARPAbet phones separated by spaces; marks it does not know (stress, length, tone) are passed over."""
    phones: list[str] = []
    ipa = unicodedata.normalize("NFD", ipa)
    at = 0
    while at < len(ipa):
        for size in range(_LONGEST, 0, -1):
            if ipa[at : at + size] in _ARPABET:
                phones.append(_ARPABET[ipa[at : at + size]])
                at += size
                break
        else:
            at += 1
    return " ".join(phones)


def pronounce(words: Sequence[str], voice: str = "en-us") -> dict[str, str]:
    """Word -> ARPAbet, for those that espeak-ng can say in that voice; none of them where it fails or has no such voice."""
    try:
        clauses = phonemes(words, voice)
    except EspeakError:
        return {}
    found = {}
    for word, ipa in zip(words, clauses, strict=True):
        # "(en)" and the like say that a letter's name is read in another language.
        phones = arpabet(re.sub(r"\([a-z-]+\)|[ˈˌ͡]", "", " ".join(ipa)))
        if phones:
            found[word] = phones
    return found


class Lexicon:
    """Pronunciations of tokens, each asked for once."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], str] = {}

    def look_up(self, tokens: Sequence[str], language: str) -> list[list[Phones]]:
        """Each token's pronunciations, the usual one first; an empty list where nothing can say it."""
        voices = [voice_of(token, language) for token in tokens]
        for voice in sorted(set(voices)):
            new = {t for t, v in zip(tokens, voices, strict=True) if v == voice and (v, t) not in self._said}
            if voice == "en-us":
                new -= dictionary().keys()
            if new and voice:
                said = pronounce(sorted(new), voice)
                self._said.update({(voice, token): said.get(token, "") for token in new})
        return [self._variants(token, voice) for token, voice in zip(tokens, voices, strict=True)]

    def _variants(self, token: str, voice: str) -> list[Phones]:
        if voice == "en-us" and token in dictionary():
            return dictionary()[token]
        phones = self._said.get((voice, token), "")
        return [tuple(phones.split())] if phones else []


@cache
def dictionary() -> dict[str, list[Phones]]:
    """The CMU dictionary that pocketsphinx carries: 126,000 English words in lower case, with their variants."""
    import pocketsphinx

    found: dict[str, list[Phones]] = {}
    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, phones = line.partition(" ")
        found.setdefault(word.partition("(")[0], []).append(tuple(phones.split()))
    return found


@cache
def voices() -> frozenset[str]:
    """The voices that espeak-ng has. Asked for another it may hang, so it is not asked."""
    import espeakng_loader

    files = (Path(espeakng_loader.get_data_path()) / "lang").rglob("*")
    return frozenset(file.name.lower() for file in files if file.is_file())


def voice_of(token: str, language: str) -> str:
    """The espeak-ng voice that reads a token of a text in `language` (ISO 639-1); "" where there is none.

    Kanji in Japanese are read by nobody here: how depends on the word, and espeak-ng does not know.
    """
    letters = [c for c in token if c.isalpha()]
    script = unicodedata.name(letters[0], "").split(" ")[0] if letters else "LATIN"
    if script == "CJK" and language in ("ja", "ko"):
        return ""
    own = _WRITTEN_IN.get(script)
    if script == "LATIN":
        foreign = any(language in languages for languages in _WRITTEN_IN.values())
        voice = "en-us" if foreign else _ESPEAK_NAMES.get(language, language)
        return voice if voice in voices() else "en-us"
    if own is None or language in own:
        voice = _ESPEAK_NAMES.get(language, language)
        if (own is not None or script not in _VOICES) and voice in voices():
            return voice
    voice = _VOICES.get(script, "")
    return voice if voice in voices() else ""
