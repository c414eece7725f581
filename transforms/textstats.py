"""Statistics of a transcript and of where its words lie: they hold in any language, and tell invented text from said text.

Nothing here knows a phrase or a word. Numbers that a recogniser gives of itself are not used either, so that texts that came with
the audio are held to the same.
"""

import itertools
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from schemas import Word

_UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}
"""First words of the Unicode names of letters of scripts that are written without spaces between words."""
_LETTERS_A_SYLLABLE = {"CJK": 3.0, "HANGUL": 3.0, "HIRAGANA": 2.0, "KATAKANA": 2.0}
"""What one letter of a script is worth in letters of an alphabet, which writes a syllable with about three."""
_EXPECTED_S, _EXPECTED_LETTER_S = 0.15, 0.065
"""Seconds of a word said quickly: what any takes, and each of its letters."""
_SLOWEST = 3.0
"""A text said more than so many times as slowly is not all there."""


def tokens(text: str) -> tuple[list[str], int]:
    """What may repeat, and how many of them in a row make a repeat: words by threes; characters by sixes in unspaced scripts.

    Case and punctuation do not count.
    """
    words = ["".join(c for c in word if c.isalnum() or unicodedata.combining(c)) for word in text.lower().split()]
    words = [word for word in words if word]
    letters = [c for word in words for c in word if c.isalnum()]
    if 2 * sum(_script(c) in _UNSPACED for c in letters) > len(letters):
        return letters, 6
    return words, 3


def repeat_share(text: str) -> float:
    """Share of the tokens that lie in an n-gram which the text had before, 0 to 1: near 1 for a loop, near 0 for what is said once.

    `"a b c d"` followed by itself k times has k / (k + 1), whatever is said in it.
    """
    found, n = tokens(text)
    seen: set[tuple[str, ...]] = set()
    repeated = [False] * len(found)
    for i in range(len(found) - n + 1):
        gram = tuple(found[i : i + n])
        if gram in seen:
            repeated[i : i + n] = [True] * n
        seen.add(gram)
    return sum(repeated) / len(found) if found else 0.0


def letters(text: str) -> float:
    """How much there is to say, in letters of an alphabet: digits and letters, those that write a syllable counting for more."""
    return sum(_LETTERS_A_SYLLABLE.get(_script(c), 1.0) for c in text if c.isalnum())


def low_share(words: Sequence[Word], floor: float) -> float:
    """Share of the words whose score is under `floor`, 0 to 1."""
    return sum(word.score < floor for word in words) / len(words) if words else 0.0


def longest_gap_s(words: Sequence[Word], duration_s: float) -> float:
    """Seconds of the longest stretch of 0..`duration_s` in which no word lies, before the first and after the last included.

    An aligner stretches a word over speech that was not written down rather than leave a hole, so a word covers no more than
    `_longest_s` from its start.
    """
    gap_s, at = 0.0, 0.0
    for word in sorted(words, key=lambda word: word.start_s):
        gap_s = max(gap_s, word.start_s - at)
        at = max(at, min(word.end_s, word.start_s + _longest_s(word.text)))
    return max(gap_s, duration_s - at)


def _longest_s(word: str) -> float:
    """Seconds that a word takes when it is said slowly: 0.1 for a letter, 0.4 for a digit, and 0.3 for its end."""
    return 0.3 + 0.1 * letters(word) + 0.3 * sum(map(str.isdecimal, word))


def untold_share(words: Sequence[Word], voiced_s: float) -> float:
    """Share of `voiced_s` seconds of speech that the words do not fill, 0 to 1: said, and not written down.

    An aligner stretches words over such speech, so each fills no more than one and a half times what its letters take at the
    pace of the text, which is that of its middle word.
    """
    if not words or voiced_s <= 0:
        return 0.0
    expected = [_EXPECTED_S + _EXPECTED_LETTER_S * letters(word.text) for word in words]
    lengths = [word.end_s - word.start_s for word in words]
    pace = statistics.median(length / usual for length, usual in zip(lengths, expected, strict=True))
    pace = min(max(pace, 1.0), _SLOWEST)
    filled = sum(min(length, 1.5 * pace * usual) for length, usual in zip(lengths, expected, strict=True))
    return max(0.0, 1.0 - filled / voiced_s)


def language_shares(spoken: Iterable[tuple[str, float]]) -> dict[str, float]:
    """(language, weight) of a recording's utterances -> the share of each language, by weight; they sum to 1."""
    weights: Counter[str] = Counter()
    for language, weight in spoken:
        weights[language] += weight  # type: ignore[assignment]
    total = sum(weights.values())
    return {language: weight / total for language, weight in weights.items()} if total else {}


def _script(letter: str) -> str:
    return unicodedata.name(letter, "LETTER").partition(" ")[0].partition("-")[0]


def loops(text: str) -> int:
    """Copies in the longest stretch of the text that says the same over and over; 1 where nothing is said twice in a row."""
    found, _ = tokens(text)
    most = 1
    for period in range(1, len(found) // 2 + 1):
        same = (found[i] == found[i + period] for i in range(len(found) - period))
        run = max((sum(1 for _ in group) for alike, group in itertools.groupby(same) if alike), default=0)
        most = max(most, run // period + 1)
    return most
