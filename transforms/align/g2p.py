"""Pronunciations for words that are in no dictionary: espeak-ng's IPA, written as ARPAbet."""

from collections.abc import Sequence

from transforms.espeak import EspeakError, phonemes

# IPA as espeak-ng's en-us voice writes it -> CMU ARPAbet, longest first.
_ARPABET = {
    "aɪə": "AY AH", "aɪɚ": "AY ER", "tʃ": "CH", "dʒ": "JH", "eɪ": "EY", "aɪ": "AY", "ɔɪ": "OY", "aʊ": "AW", "oʊ": "OW",
    "əʊ": "OW", "ɪɹ": "IH R", "ɛɹ": "EH R", "ʊɹ": "UH R", "ɔːɹ": "AO R", "oːɹ": "AO R", "ɑːɹ": "AA R", "ɜː": "ER", "əl": "AH L",
    "iː": "IY", "uː": "UW", "ɑː": "AA", "ɔː": "AO", "ɚ": "ER", "ɝ": "ER", "i": "IY", "ɪ": "IH", "ᵻ": "IH", "e": "EH", "ɛ": "EH",
    "æ": "AE", "a": "AE", "ʌ": "AH", "ə": "AH", "ɐ": "AH", "ʊ": "UH", "u": "UW", "o": "OW", "ɔ": "AO", "ɒ": "AA", "ɑ": "AA",
    "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "ɡ": "G", "g": "G", "f": "F", "v": "V", "θ": "TH", "ð": "DH", "s": "S",
    "z": "Z", "ʃ": "SH", "ʒ": "ZH", "h": "HH", "m": "M", "n": "N", "ŋ": "NG", "l": "L", "ɹ": "R", "r": "R", "j": "Y", "w": "W",
    "ɾ": "T", "ʔ": "T", "x": "K", "ɬ": "L", "n̩": "AH N",
}  # fmt: skip
_LONGEST = max(map(len, _ARPABET))


def arpabet(ipa: str) -> str:
    """IPA -> ARPAbet phones separated by spaces; marks it does not know (stress, length, tone) are passed over."""
    phones: list[str] = []
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


def pronounce(words: Sequence[str]) -> dict[str, str]:
    """Word -> ARPAbet, for those that espeak-ng can say; none of them where it fails."""
    try:
        clauses = phonemes(words)
    except EspeakError:
        return {}
    found = {
        word: arpabet(" ".join(ipa).replace("ˈ", "").replace("ˌ", "")) for word, ipa in zip(words, clauses, strict=True)
    }
    return {word: phones for word, phones in found.items() if phones}
