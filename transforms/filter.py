"""Which utterances stay: thresholds on what the stages before have measured, each with its own reason."""

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas import Block, Reason, Utterance
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
    max_chars_per_s: float | None = Field(35.0, gt=0)
    """Letters a second: more words than the audio can hold were not said in it."""
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


class Filter(Stage):
    """Rejects what fails a threshold, and whatever has no word."""

    name = "filter"
    version = 2

    def __init__(self, options: FilterOptions, aligner: str) -> None:
        """`aligner`: the `align.backend` that gave the scores."""
        super().__init__(options)
        self._options = options
        self._aligner = aligner

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"aligner": self._aligner}

    def __call__(self, block: Block) -> Block:
        kept = []
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
    return 0.3 if aligner in ("joint", "phones") and language == "en" else 0.1


def judge(utterance: Utterance, options: FilterOptions, aligner: str) -> tuple[Reason, str] | None:
    """Why an utterance is rejected and the numbers behind it, or None where it stays."""
    if not utterance.words:
        return Reason.NO_TEXT, "no word was recognised"
    limits = [
        (Reason.UNSURE, "asr_avg_logprob", options.min_avg_logprob, False),
        (Reason.UNSURE, "asr_no_speech_prob", options.max_no_speech_prob, True),
        (Reason.UNSURE, "asr_compression_ratio", options.max_compression_ratio, True),
        (Reason.DISAGREED, "asr_agreement", options.min_agreement, False),
        (Reason.UNALIGNED, "align_score", least_align_score(options, aligner, utterance.language), False),
        (Reason.TOO_FAST, "quality_chars_per_s", options.max_chars_per_s, True),
        (Reason.POOR_SOUND, "quality_snr_db", options.min_snr_db, False),
        (Reason.POOR_SOUND, "quality_clipped_share", options.max_clipped_share, True),
        (Reason.POOR_SOUND, "quality_bandwidth_hz", options.min_bandwidth_hz, False),
        (Reason.POOR_SOUND, "quality_dnsmos", options.min_dnsmos, False),
        (Reason.MIXED_SPEAKERS, "speaker_share", options.min_speaker_share, False),
    ]
    for reason, column, limit, is_maximum in limits:
        value = utterance.columns.get(column)
        if limit is None or value is None:
            continue
        if (float(value) > limit) if is_maximum else (float(value) < limit):
            return (
                reason,
                f"{column} {float(value):.2f} {'>' if is_maximum else '<'} {limit:.2f}: {utterance.text[:200]!r}",
            )
    return None
