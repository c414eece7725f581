"""Written words and spoken tokens: what an aligner is asked to find, and back to the spelling of the transcript."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from schemas import Word
from schemas.utterance import How

_NUMBER = re.compile(r"([£$€])?(\d[\d,]*)(?:\.(\d+))?(%|[£$€]|st|nd|rd|th|s)?")
_CURRENCY = {"£": "pound", "$": "dollar", "€": "euro"}
_ISO_4217 = {"£": "GBP", "$": "USD", "€": "EUR"}
_CURRENCY_LANGUAGES = {"de", "es", "fi", "fr", "it", "nl", "ru", "uk"}
"""Languages in which num2words names these currencies; in others it lacks them or says the local one for all."""
_PERCENT = {
    "cs": "procent",
    "da": "procent",
    "de": "prozent",
    "en": "percent",
    "es": "por ciento",
    "fi": "prosenttia",
    "fr": "pour cent",
    "hu": "százalék",
    "it": "per cento",
    "nl": "procent",
    "no": "prosent",
    "pl": "procent",
    "pt": "por cento",
    "ro": "la sută",
    "ru": "процентов",
    "sv": "procent",
    "uk": "відсотків",
}
_COMMA_IS_DECIMAL = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+,\d{1,2}|\d+,\d{4,})(?![\d.,])")
"""How most of Europe writes a number: dots between thousands, a comma before the decimals."""
_DIGITS_READ_ALOUD = {"ja", "zh", "yue", "ko"}
"""Languages whose numbers num2words writes in characters that say nothing of their sound; espeak-ng reads digits in them."""
_MARKS = {"M", "Cf"}
"""Unicode categories that continue a letter: vowel signs, accents, joiners."""
_SYMBOLS = {"&": "and", "%": "percent", "+": "plus", "=": "equals", "@": "at", "#": "number", "°": "degrees"}


@dataclass(frozen=True)
class Time:
    """Where a token was found: seconds, and a score from 0 to 1."""

    start_s: float
    end_s: float
    score: float
    how: How


def spoken(word: str, language: str = "en") -> list[str]:
    """The lower-case tokens that a written word is said as; none for mere punctuation.

    Hyphens and dashes divide; digits become words (`1455` fourteen fifty-five, `£13.60` thirteen pounds sixty, `3rd` third); so
    do symbols, in English. A run of an unspaced script is one token where its script does not change.
    """
    tokens: list[str] = []
    for part in re.split(r"[-‐‑‒–—/…_]+", word.lower().replace("’", "'").replace("‘", "'")):
        stripped = part.strip(" \"'“”.,;:!?()[]{}<>*«»")
        plain = language == "en" or language in _DIGITS_READ_ALOUD
        number = _NUMBER.fullmatch(stripped if plain else _COMMA_IS_DECIMAL.sub(_swap, stripped))
        if number:
            tokens += _say_number(*number.groups(), language=language)
            continue
        for piece in pieces(unicodedata.normalize("NFC", stripped)):
            if piece.isdecimal():
                tokens += _say_number("", piece, None, None, language=language)
            elif piece not in _SYMBOLS:
                tokens.append(piece)
            elif language == "en":
                tokens.append(_SYMBOLS[piece])
    return tokens


def _swap(number: re.Match[str]) -> str:
    return number[0].replace(".", "").replace(",", ".")


def pieces(text: str) -> list[str]:
    """Runs of letters of one script with their marks and inner apostrophes, runs of digits, and known symbols; the rest goes."""
    found: list[str] = []
    before = ""
    for i, c in enumerate(text):
        category = unicodedata.category(c)
        inner = c == "'" and before and i + 1 < len(text) and text[i + 1].isalpha()
        if (category[0] in _MARKS or category in _MARKS or inner) and before not in ("", "digit"):
            found[-1] += c
            continue
        kind = "digit" if c.isdecimal() else _script(c) if c.isalpha() else c if c in _SYMBOLS else ""
        if kind and kind == before and kind != c:
            found[-1] += c
        elif kind:
            found.append(c)
        before = "" if kind == c else kind
    return found


def _script(letter: str) -> str:
    """The script of a letter, as far as its name tells: LATIN, CJK, HANGUL ... Japanese syllables count as one."""
    name = unicodedata.name(letter, "LETTER").split(" ")[0].split("-")[0]
    return {"KATAKANA": "HIRAGANA", "MODIFIER": "LATIN", "FULLWIDTH": "LATIN", "MICRO": "GREEK"}.get(name, name)


def _say_number(sign: str | None, whole: str, decimals: str | None, suffix: str | None, *, language: str) -> list[str]:
    from num2words import num2words

    digits = whole.replace(",", "")
    if language in _DIGITS_READ_ALOUD:
        return [digits]
    english = language == "en"
    sign = suffix if suffix in _CURRENCY else sign
    try:
        value = int(digits)
        if suffix in ("st", "nd", "rd", "th"):
            text = num2words(value, to="ordinal", lang=language)
        elif len(digits) == 4 and "," not in whole and 1100 <= value <= 2099 and not (sign or decimals):
            text = num2words(value, to="year", lang=language)
        elif len(digits) > 15 or (len(digits) > 1 and digits[0] == "0"):
            text = " ".join(num2words(int(d), lang=language) for d in digits)
        elif sign and language in _CURRENCY_LANGUAGES:
            text = _money(value, sign, language)
        else:
            text = num2words(value, lang=language)
        if sign:
            text += f" {_CURRENCY[sign]}{'' if value == 1 else 's'}" if english else ""
            text += f" {num2words(int(decimals), lang=language)}" if decimals and int(decimals) else ""
        elif decimals:
            text += " point " if english else " "
            text += " ".join(num2words(int(d), lang=language) for d in decimals)
        if suffix == "%":
            text += f" {_PERCENT.get(language, '')}"
    except (NotImplementedError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
        return [digits]  # a language, or a form of number in it, that num2words does not have
    return pieces(text.lower())


def _money(value: int, sign: str, language: str) -> str:
    """A whole amount with its currency; the number alone where num2words does not have that currency in the language."""
    from num2words import num2words

    try:
        # A float: an integer would be cents. What follows the separator are cents.
        text = num2words(float(value), to="currency", lang=language, currency=_ISO_4217[sign], separator=" |")
    except NotImplementedError:
        return str(num2words(value, lang=language))
    return str(text).partition("|")[0]


def tokens_of(words: Sequence[str], language: str = "en") -> tuple[list[str], list[int]]:
    """All spoken tokens of a transcript, and for each the index of its written word."""
    tokens, owners = [], []
    for i, word in enumerate(words):
        for token in spoken(word, language):
            tokens.append(token)
            owners.append(i)
    return tokens, owners


def with_wildcards(words: Sequence[str], tokens: Sequence[str], owners: Sequence[int]) -> tuple[list[str], list[int]]:
    """Give every written word that has no token, but is more than punctuation, an empty one."""
    pairs = list(zip(owners, tokens, strict=True))
    silent = set(range(len(words))) - set(owners)
    pairs += [(i, "") for i in silent if any(unicodedata.category(c)[0] in "LNS" for c in words[i])]
    pairs.sort(key=lambda pair: pair[0])
    return [token for _, token in pairs], [owner for owner, _ in pairs]


def written(words: Sequence[str], owners: Sequence[int], times: Sequence[Time | None], duration_s: float) -> list[Word]:
    """Times of tokens -> times of written words, every one of them.

    A word spans its timed tokens and scores their mean by duration. A word none of whose tokens was timed is laid between its
    neighbours, in proportion to its letters: `interpolated`, score 0.
    """
    own: list[list[Time]] = [[] for _ in words]
    for time, owner in zip(times, owners, strict=True):
        if time is not None:
            own[owner].append(time)
    found = [_whole(times) if times else None for times in own]
    return [
        Word(text, t.start_s, t.end_s, t.score, t.how)
        for text, t in zip(words, interpolate(found, [len(w) for w in words], duration_s), strict=True)
    ]


def _whole(times: Sequence[Time]) -> Time:
    """A word's tokens as one; a `wildcard` only where all of them are."""
    weights = [max(t.end_s - t.start_s, 1e-3) for t in times]
    score = sum(t.score * w for t, w in zip(times, weights, strict=True)) / sum(weights)
    how = next((t.how for t in times if t.how != "wildcard"), times[0].how)
    return Time(times[0].start_s, times[-1].end_s, score, how)


def interpolate(times: Sequence[Time | None], weights: Sequence[int], duration_s: float) -> list[Time]:
    """Fill each run of None evenly by `weights` into the gap around it; clip all to 0..duration_s, in order."""
    filled: list[Time] = []
    at = 0.0
    i = 0
    while i < len(times):
        known = times[i]
        if known is not None:
            start_s = min(max(known.start_s, at), duration_s)
            end_s = min(max(known.end_s, start_s), duration_s)
            filled.append(Time(start_s, end_s, known.score, known.how))
            at = end_s
            i += 1
            continue
        run = i
        while run < len(times) and times[run] is None:
            run += 1
        following = times[run] if run < len(times) else None
        limit = duration_s if following is None else min(max(following.start_s, at), duration_s)
        total = sum(weights[i:run]) or 1
        begun = at
        passed = 0
        for weight in weights[i:run]:
            passed += weight
            end_s = min(limit, begun + (limit - begun) * passed / total)
            filled.append(Time(at, end_s, 0.0, "interpolated"))
            at = end_s
        i = run
    return filled
