"""What was turned away, and why: rejections are data."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Every reason for which audio can be turned away. The list is closed: reports and tests rely on it."""

    MISSING = "missing"
    """The file is not there or may not be read."""
    UNREADABLE = "unreadable"
    """No decoder takes it: empty, random bytes, a web page named .mp3, an unsupported format."""
    NO_AUDIO = "no_audio"
    """A valid container without an audio stream, or one that holds no sample."""
    CORRUPT = "corrupt"
    """More broken packets than `decode.max_bad_share` allows."""
    TRUNCATED = "truncated"
    """Much shorter, once decoded, than its header says."""
    NOT_FINITE = "not_finite"
    """Samples that are NaN or infinite."""
    SILENT = "silent"
    """Nothing above `segment.silence_db` in the whole piece."""
    NO_SPEECH = "no_speech"
    """Between utterances: no voice was found there."""
    TOO_SHORT = "too_short"
    """Voice, but less than `segment.min_s` of it."""
    NO_TEXT = "no_text"
    """The recogniser heard no word."""
    UNSURE = "unsure"
    """The recogniser's own doubts: average log-probability, no-speech probability or compression ratio past its limit."""
    UNALIGNED = "unaligned"
    """The words could not be placed in the audio, or their mean score is under `filter.min_align_score`."""
    TOO_FAST = "too_fast"
    """More characters a second than `filter.max_chars_per_s`: more words than the audio can hold."""
    OUT_OF_MEMORY = "out_of_memory"
    """A model ran out of memory on this utterance alone."""
    FAILED = "failed"
    """A stage raised an error on this utterance alone; `detail` has it."""


SILENCE = frozenset({Reason.SILENT, Reason.NO_SPEECH})
"""Nobody speaks there: no loss."""

SOURCE_FAULTS = frozenset(
    {Reason.MISSING, Reason.UNREADABLE, Reason.NO_AUDIO, Reason.CORRUPT, Reason.TRUNCATED, Reason.NOT_FINITE}
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
