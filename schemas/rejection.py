"""What was turned away, and why: rejections are data."""

import ast
import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Every reason for which audio can be turned away. The list is closed: reports and tests rely on it."""

    MISSING = "missing"
    """The file is not there, may not be read, or is a folder, a pipe or a device."""
    UNREADABLE = "unreadable"
    """No decoder takes it: empty, random bytes, a web page named .mp3, an encrypted or unsupported format, a playlist."""
    NO_AUDIO = "no_audio"
    """A valid container without an audio stream, or one that holds no sample."""
    CORRUPT = "corrupt"
    """More broken packets than `decode.max_bad_share` allows; or the end of a tar that breaks off."""
    TRUNCATED = "truncated"
    """Much shorter, once decoded, than its header says, or broken off with an error: what was decoded stays."""
    UNDECLARED = "undeclared"
    """Far longer, once decoded, than its header says: what lies past `decode.max_undeclared_s` is counted and not kept."""
    CRASHED = "crashed"
    """The decoder crashed on it (it runs in a process of its own, so the run went on)."""
    TIMEOUT = "timeout"
    """The decoder gave no sign of life for `decode.timeout_s`, or was slower than ten times real time."""
    NOT_FINITE = "not_finite"
    """Samples that are NaN or infinite."""
    SILENT = "silent"
    """Nothing above `segment.silence_db` in the whole piece."""
    NO_SPEECH = "no_speech"
    """Between utterances: no voice was found there."""
    TOO_SHORT = "too_short"
    """Voice, but less than `segment.min_s` of it."""
    TOO_LONG = "too_long"
    """A manifest text for more than `segment.max_s`: it cannot be divided with its audio."""
    NO_TEXT = "no_text"
    """The recogniser heard no word."""
    UNSURE = "unsure"
    """The recogniser's own doubts: average log-probability, no-speech probability or compression ratio past its limit."""
    DISAGREED = "disagreed"
    """Two recognisers heard different words: their agreement is under `filter.min_agreement`."""
    UNALIGNED = "unaligned"
    """The words could not be placed in the audio: their mean score is under `filter.min_align_score`, or too many of them are under
    `filter.low_score`."""
    UNCOVERED = "uncovered"
    """Part of it was not written down: a stretch longer than `filter.max_align_gap_s` in which no word lies, or more of the speech
    than `filter.max_untold_share` that the words do not fill."""
    REPEATS = "repeats"
    """The text says the same over and over, past `filter.max_repeat_share` or `filter.max_loops`."""
    OTHER_LANGUAGE = "other_language"
    """Recognised, and not surely, in another language than most of the recording; or hardly in the language given for it, by
    `filter.min_given_language_prob`."""
    TOO_FAST = "too_fast"
    """More letters a second of speech than `filter.max_chars_per_s`: more words than the audio can hold."""
    POOR_SOUND = "poor_sound"
    """Recorded worse than `filter` asks for: signal-to-noise ratio, clipping, bandwidth or DNSMOS."""
    MIXED_SPEAKERS = "mixed_speakers"
    """The utterance's speaker holds less of it than `filter.min_speaker_share`."""
    OVERLAPPED = "overlapped"
    """Two or more speak at once in more of the utterance than `filter.max_overlap_share`."""
    OUT_OF_MEMORY = "out_of_memory"
    """A model ran out of memory on this utterance alone, or the decoder on this file."""
    FAILED = "failed"
    """A stage raised an error on this utterance alone; `detail` has it."""


SILENCE = frozenset({Reason.SILENT, Reason.NO_SPEECH})
"""Nobody speaks there: no loss."""

SOURCE_FAULTS = frozenset(
    {
        Reason.MISSING,
        Reason.UNREADABLE,
        Reason.NO_AUDIO,
        Reason.CORRUPT,
        Reason.TRUNCATED,
        Reason.UNDECLARED,
        Reason.CRASHED,
        Reason.TIMEOUT,
        Reason.NOT_FINITE,
    }
)
"""The file is not what it should be."""

FAULTS = SOURCE_FAULTS | {Reason.OUT_OF_MEMORY, Reason.FAILED}
"""Something is broken, in the file or here: not the audio's own doing."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A stretch of one channel of one source that was turned away.

    Attributes:
        source: the source's name, as in `Utterance.source`.
        channel: 0-based channel, or -1 for a mix of all of them.
        start_s, end_s: seconds from the start of the source.
        stage: the stage that turned it away.
        reason: one of the closed list.
        detail: the numbers or the error behind it, for people.
    """

    source: str
    channel: int
    start_s: float
    end_s: float
    stage: str
    reason: Reason
    detail: str = ""

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"reason": self.reason.value}


def meanings() -> dict[Reason, str]:
    """Each reason -> its docstring above, which Python itself does not keep."""
    tree = ast.parse(inspect.getsource(Reason)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for assigned, said in itertools.pairwise(tree.body):
        if isinstance(assigned, ast.Assign) and isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant):
            name = assigned.targets[0]
            assert isinstance(name, ast.Name)
            found[Reason[name.id]] = str(said.value.value)
    return found


def markdown(examples: Mapping[str, Sequence[str]]) -> str:
    """docs/rejections.md.

    Args:
        examples: reason, or "kept", -> names of inputs in the tests that come to it.
    """

    def shown(names: Sequence[str]) -> str:
        plain = (name.encode("unicode_escape").decode().replace("|", "\\|") for name in names)
        return ", ".join(f"`{name}`" for name in plain)

    head = [
        "# Why audio is turned away",
        "",
        "<!-- Made by `python -m tests.zoo` from schemas/rejection.py and tests/zoo.py. -->",
        "",
        "`rejected/part-*.parquet` has a line for every stretch that was turned away, `antiphon inspect CORPUS --rejected` prints",
        "them, and `antiphon retry` makes again what a repair may have cured. The list is closed. The files named are made by",
        "tests/zoo.py; a test sends each through the whole pipeline and holds it to this table.",
        "",
        "| reason | what | for example |",
        "|---|---|---|",
    ]
    rows = [
        f"| `{reason.value}` | {about} | {shown(examples.get(reason.value, ()))} |"
        for reason, about in meanings().items()
    ]
    return "\n".join([*head, *rows, "", f"Kept, as they should be: {shown(examples.get('kept', ()))}.", ""])
