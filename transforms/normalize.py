"""The normal form of a transcript: Whisper's normalizers, which most published word error rates use."""

from collections.abc import Callable
from functools import cache


@cache
def _normalizer(english: bool) -> Callable[[str], str]:
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer() if english else BasicTextNormalizer()  # type: ignore[no-any-return]


def normalize(text: str, language: str) -> str:
    """Lower case, no punctuation, numbers and spellings unified (English) or diacritics kept (other languages)."""
    return _normalizer(language == "en")(text).strip() if text else ""
