"""Which utterances stay: thresholds on what the stages before have measured, each with its own reason."""

from collections import defaultdict
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas import Block, Reason, Utterance
from transforms import textstats
from transforms.options import Options
from transforms.stage import Stage


class FilterOptions(Options):
    """An utterance that fails one of these is rejected. Null turns a threshold off; a missing column never fails it."""

    min_avg_logprob: float | None = -1.0
    """Mean log-probability of the recogniser's tokens."""
    max_no_speech_prob: float | None = Field(0.9, ge=0, le=1)
    """The recogniser's probability that there is no speech."""
    max_compression_ratio: float | None = 2.4
    """Of the text: repetition loops compress well."""
    min_agreement: float | None = Field(None, ge=0, le=1)
    """Between two recognisers' texts (`asr_agreement`); only with transcribe.second."""
    min_align_score: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] | None = "auto"
    """Mean score of the aligned words. Aligners score differently: "auto" is 0.3 for English under align.backend joint and phones,
    and 0.1 for the others and for other languages."""
    low_score: float = Field(0.05, ge=0, le=1)
    """A word whose score is under this counts for `max_low_share`."""
    max_low_share: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] | None = "auto"
    """Share of the words with a low score: a part of the text is not in the audio, however well the rest fits. "auto" is 0.15 for
    English under align.backend joint and phones, and off elsewhere, where no such floor has been measured."""
    max_align_gap_s: float | None = Field(3.0, gt=0)
    """Longest stretch of an utterance without a word. Only where a VAD cut it: that leaves no pause longer than
    `segment.max_gap_s` inside, so keep this a second above it."""
    max_untold_share: float | None = Field(0.2, ge=0, le=1)
    """Share of the speech that the words do not fill, each taken at the pace of the text: some of what was said is not written
    down. Only where a VAD cut the utterance. Halting readers come to 0.2 and more: set it higher for them."""
    max_repeat_share: float | None = Field(0.45, ge=0, le=1)
    """Share of the text that it says a second time or more often (by three words; six characters in scripts without spaces)."""
    max_loops: int | None = Field(4, ge=1)
    """How often a text may say the same in a row."""
    max_chars_per_s: float | None = Field(25.0, gt=0)
    """Letters a second of speech (a Chinese or Korean one counts as 3, a Japanese syllable as 2): more words than the audio can
    hold were not said in it. Without a VAD, of the whole utterance."""
    min_language_prob: float | None = Field(0.5, ge=0, le=1)
    """Probability of the language, where less than half of the recording's speech (within the block) is in it."""
    min_given_language_prob: float | None = Field(0.1, ge=0, le=1)
    """Probability of the language that was given for the audio; needs `transcribe.check_language`."""
    min_snr_db: float | None = None
    """Signal-to-noise ratio."""
    max_clipped_share: float | None = Field(None, ge=0, le=1)
    """Share of the samples at full scale."""
    min_bandwidth_hz: float | None = Field(None, ge=0)
    """Hz under which 99 % of the energy lies."""
    min_dnsmos: float | None = Field(None, ge=1, le=5)
    """DNSMOS, overall; needs `measure.dnsmos`."""
    min_speaker_share: float | None = Field(None, ge=0, le=1)
    """Share of the utterance that its speaker holds; needs the `speaker` stage."""
    max_overlap_share: float | None = Field(None, ge=0, le=1)
    """Share of the utterance in which two or more speak at once; needs the `speaker` stage."""


class Filter(Stage):
    """Sets the columns of the text's and the alignment's statistics; rejects what fails a threshold, and whatever has no word."""

    name = "filter"
    version = 5

    def __init__(self, options: FilterOptions, aligner: str) -> None:
        """`aligner`: the `align.backend` that gave the scores."""
        super().__init__(options)
        self._options = options
        self._aligner = aligner

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"aligner": self._aligner}

    def __call__(self, block: Block) -> Block:
        kept = []
        add_statistics(block.utterances, self._options)
        for utterance in block.utterances:
            verdict = judge(utterance, self._options, self._aligner)
            if verdict is None:
                kept.append(utterance)
            else:
                block.reject(utterance, self.name, *verdict)
        block.utterances = kept
        return block


def least_align_score(options: FilterOptions, aligner: str, language: str) -> float | None:
    """What `min_align_score` comes to for one utterance.

    0.3 parts right from wrong texts: of 60 clips of LibriSpeech test-other, the joint aligner's scores are 0.36 or more with their
    own texts and 0.28 or less with their neighbours' (docs/benchmarks.md).
    """
    if options.min_align_score != "auto":
        return options.min_align_score
    return 0.3 if _is_measured(aligner, language) else 0.1


def most_low_share(options: FilterOptions, aligner: str, language: str) -> float | None:
    """What `max_low_share` comes to for one utterance."""
    if options.max_low_share != "auto":
        return options.max_low_share
    return 0.15 if _is_measured(aligner, language) else None


def _is_measured(aligner: str, language: str) -> bool:
    return aligner in ("joint", "phones") and language == "en"


def add_statistics(utterances: list[Utterance], options: FilterOptions) -> None:
    """Set the `text_*` and `align_*` columns of `transforms.textstats` on every utterance that has words."""
    spoken: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for u in utterances:
        if u.words:
            spoken[u.source].append((u.language, _voiced_s(u)))
    shares = {source: textstats.language_shares(found) for source, found in spoken.items()}
    for u in utterances:
        if not u.words:
            continue
        u.columns |= {
            "text_language_share": shares[u.source][u.language],
            "text_repeat_share": textstats.repeat_share(u.text),
            "text_loops": textstats.loops(u.text),
            "text_chars_per_s": textstats.letters(u.text) / _voiced_s(u),
            "align_low_share": textstats.low_share(u.words, options.low_score),
            "align_untold_share": textstats.untold_share(u.words, _voiced_s(u)),
            "align_gap_s": textstats.longest_gap_s(u.words, u.duration_s),
        }


def _voiced_s(utterance: Utterance) -> float:
    """Seconds of speech; the whole length where no VAD ran. Not under 0.1 s, so that it divides."""
    return max(0.1, float(utterance.columns.get("quality_voiced_s", utterance.duration_s)))


def judge(utterance: Utterance, options: FilterOptions, aligner: str) -> tuple[Reason, str] | None:
    """Why an utterance is rejected and the numbers behind it, or None where it stays."""
    if not utterance.words:
        return Reason.NO_TEXT, "no word was recognised"
    columns = utterance.columns
    # A pause may be as long as it likes where no VAD has cut, and nobody is surprised by the recording's main language.
    cut = "quality_voiced_s" in columns
    longest_gap_s, most_untold = (options.max_align_gap_s, options.max_untold_share) if cut else (None, None)
    stands_out = float(columns.get("text_language_share", 1.0)) < 0.5
    limits = [
        (Reason.REPEATS, "text_repeat_share", options.max_repeat_share, True),
        (Reason.REPEATS, "text_loops", options.max_loops, True),
        (Reason.OTHER_LANGUAGE, "asr_language_prob", options.min_language_prob if stands_out else None, False),
        (Reason.OTHER_LANGUAGE, "asr_given_language_prob", options.min_given_language_prob, False),
        (Reason.UNSURE, "asr_avg_logprob", options.min_avg_logprob, False),
        (Reason.UNSURE, "asr_no_speech_prob", options.max_no_speech_prob, True),
        (Reason.UNSURE, "asr_compression_ratio", options.max_compression_ratio, True),
        (Reason.TOO_FAST, "text_chars_per_s", options.max_chars_per_s, True),
        (Reason.DISAGREED, "asr_agreement", options.min_agreement, False),
        (Reason.UNALIGNED, "align_score", least_align_score(options, aligner, utterance.language), False),
        (Reason.UNALIGNED, "align_low_share", most_low_share(options, aligner, utterance.language), True),
        (Reason.UNCOVERED, "align_gap_s", longest_gap_s, True),
        (Reason.UNCOVERED, "align_untold_share", most_untold, True),
        (Reason.POOR_SOUND, "quality_snr_db", options.min_snr_db, False),
        (Reason.POOR_SOUND, "quality_clipped_share", options.max_clipped_share, True),
        (Reason.POOR_SOUND, "quality_bandwidth_hz", options.min_bandwidth_hz, False),
        (Reason.POOR_SOUND, "quality_dnsmos", options.min_dnsmos, False),
        (Reason.MIXED_SPEAKERS, "speaker_share", options.min_speaker_share, False),
        (Reason.OVERLAPPED, "speaker_overlap_share", options.max_overlap_share, True),
    ]
    for reason, column, limit, is_maximum in limits:
        value = columns.get(column)
        if limit is None or value is None:
            continue
        if (float(value) > limit) if is_maximum else (float(value) < limit):
            return (
                reason,
                f"{column} {float(value):.2f} {'>' if is_maximum else '<'} {limit:.2f}: {utterance.text[:200]!r}",
            )
    return None
