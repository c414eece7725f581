"""Cut pieces into utterances of 1 to 30 s, only where nobody speaks."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from schemas import Block, Piece, Reason, Rejection, Utterance
from transforms.options import Options
from transforms.stage import Stage
from transforms.weights import locate


class SegmentOptions(Options):
    """Where utterances begin and end."""

    backend: Literal["silero", "none"] = "silero"
    """"silero": Silero VAD finds the speech. "none": every piece is one utterance as it is (cut only where it passes `max_s`).
    A piece whose manifest text is taken as its transcript is one utterance under both, and is never cut."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Speech begins where the VAD's probability reaches this, and ends where it stays 0.15 below it."""
    min_s: float = Field(1.0, ge=0)
    """Shorter utterances are rejected as too_short."""
    max_s: float = Field(30.0, gt=0, le=30)
    """Longer ones are cut where the VAD is least sure of speech. Whisper reads 30 s."""
    max_gap_s: float = Field(2.0, ge=0)
    """Speech on both sides of a shorter silence is one utterance, as far as `max_s` allows."""
    pad_s: float = Field(0.2, ge=0)
    """Silence kept on both sides, where there is as much."""
    silence_db: float = -70.0
    """A piece whose loudest 32 ms are below this (dB of full scale) is rejected as silent, unheard by the VAD."""


TEXT_S = "text_s"
"""Field of `Piece.given` that the plan sets where it cut an entry with a text: seconds that the text was given for."""


class Span(NamedTuple):
    """Samples `start` to `end` of a piece."""

    start: int
    end: int


class Segment(Stage):
    """Turns each piece's samples into utterances, with their seconds of speech; the rest is rejected as no_speech, too_short or
    silent."""

    name = "segment"
    version = 3

    def __init__(self, options: SegmentOptions, *, texts_given: bool = False) -> None:
        """`texts_given`: the manifest's texts become transcripts, so a piece with one stays whole."""
        super().__init__(options)
        self._options = options
        self._texts_given = texts_given

    def setup(self) -> None:
        """Raises MissingWeights where Silero VAD is not on this machine."""
        if self._options.backend == "silero":
            from transforms.vad import SileroVad

            self._vad = SileroVad(locate("silero-vad").path)

    def weights(self) -> dict[str, str]:
        return {"silero-vad": locate("silero-vad").sha256} if self._options.backend == "silero" else {}

    def __call__(self, block: Block) -> Block:
        for piece in block.pieces:
            for channel, samples in sorted(piece.samples.items()):
                self._segment(block, piece, channel, samples)
            piece.samples = {}
        block.utterances.sort(key=lambda u: (u.source, u.channel, u.start))
        return block

    def _segment(self, block: Block, piece: Piece, channel: int, samples: np.ndarray) -> None:
        rate_hz, options = block.rate_hz, self._options

        def reject(start: int, end: int, reason: Reason, detail: str = "") -> None:
            if end > start:
                bounds = ((piece.offset + start) / rate_hz, (piece.offset + end) / rate_hz)
                block.rejections.append(Rejection(piece.source, channel, *bounds, self.name, reason, detail))

        loudest_db = loudest(samples, rate_hz)
        if loudest_db < options.silence_db:
            detail = f"loudest 32 ms at {loudest_db:.1f} dB, under {options.silence_db:.1f} dB"
            return reject(0, len(samples), Reason.SILENT, detail)
        speech: list[Span] | None = None
        if self._texts_given and piece.given.get("text"):
            # Which words of the text a part of it would hold, nobody knows.
            seconds = max(len(samples) / rate_hz, float(piece.given.get(TEXT_S) or 0.0))
            if seconds > options.max_s:
                detail = f"one text for {seconds:.2f} s; at most {options.max_s:.2f} s: divide it in the manifest"
                return reject(0, len(samples), Reason.TOO_LONG, detail)
            utterances = [Span(0, len(samples))]
        elif options.backend == "none":
            quiet = framewise_energy(samples, rate_hz)
            utterances = shorten([Span(0, len(samples))], quiet, rate_hz, options.max_s)
        else:
            from transforms.vad import HOP_S

            probabilities = self._vad.probabilities(samples, rate_hz)
            speech = regions(probabilities, options.threshold, round(HOP_S * rate_hz), len(samples))
            spoken = shorten(speech, probabilities, rate_hz, options.max_s)
            merged = merge(spoken, round(options.max_gap_s * rate_hz), round(options.max_s * rate_hz))
            utterances = pad(merged, round(options.pad_s * rate_hz), round(options.max_s * rate_hz), len(samples))
        at = 0
        for span in utterances:
            reject(at, span.start, Reason.NO_SPEECH)
            at = span.end
            seconds = (span.end - span.start) / rate_hz
            if seconds < options.min_s:
                reject(*span, Reason.TOO_SHORT, f"{seconds:.2f} s, under {options.min_s:.2f} s")
            else:
                made = _utterance(piece, channel, span, samples, rate_hz)
                if speech is not None:
                    made.columns["quality_voiced_s"] = overlap(span, speech) / rate_hz
                block.utterances.append(made)
        return reject(at, len(samples), Reason.NO_SPEECH)


def _utterance(piece: Piece, channel: int, span: Span, samples: np.ndarray, rate_hz: int) -> Utterance:
    given = piece.given
    made = Utterance(
        piece.source,
        channel,
        piece.offset + span.start,
        piece.offset + span.end,
        samples[span.start : span.end],
        rate_hz,
        given=given,
        language=str(given.get("language") or ""),
        origin="tts" if given.get("origin") == "tts" else "human",
        split="heldout" if given.get("split") == "heldout" else "train",
    )
    for name in ("speaker", "dialogue_id", "role"):
        if given.get(name) is not None:
            made.columns[name] = str(given[name])
    if given.get("turn") is not None:
        made.columns["turn"] = int(given["turn"])
    made.columns["group_id"] = str(given.get("group_id") or piece.source)
    return made


def overlap(span: Span, others: Sequence[Span]) -> int:
    """Samples of `span` that lie in one of `others`, which do not overlap each other."""
    return sum(max(0, min(span.end, other.end) - max(span.start, other.start)) for other in others)


def loudest(samples: np.ndarray, rate_hz: int) -> float:
    """Root mean square of the loudest 32 ms, in dB of full scale; -inf for digital silence or nothing."""
    energy = framewise_energy(samples, rate_hz)
    peak = float(energy.max()) if len(energy) else 0.0
    return 10 * float(np.log10(peak)) if peak > 0 else -np.inf


def framewise_energy(samples: np.ndarray, rate_hz: int, frame_s: float = 0.032) -> np.ndarray:
    """Mean square of every 32 ms, `[ceil(n / hop)]`; the last frame is filled up with silence."""
    hop = round(frame_s * rate_hz)
    frames = -(-len(samples) // hop)
    padded = np.pad(samples, (0, frames * hop - len(samples))).reshape(frames, hop)
    energy: np.ndarray = np.square(padded, dtype=np.float64).mean(axis=1)
    return energy


def regions(probabilities: np.ndarray, threshold: float, hop: int, n_samples: int) -> list[Span]:
    """Speech by hysteresis: from the first frame at `threshold` to 0.1 s (3 frames) in a row under `threshold - 0.15`.

    Args:
        probabilities: `[T]`, one every `hop` samples.

    Returns spans in order, apart by at least 3 frames, within `n_samples`.
    """
    found: list[Span] = []
    start, last = -1, -1
    for t, p in enumerate(probabilities):
        if p >= threshold:
            start = t if start < 0 else start
            last = t
        elif start >= 0 and p >= threshold - 0.15:
            last = t
        elif start >= 0 and t - last >= 3:
            found.append(Span(start * hop, (last + 1) * hop))
            start = -1
    if start >= 0:
        found.append(Span(start * hop, (last + 1) * hop))
    return [Span(s.start, min(s.end, n_samples)) for s in found if s.start < n_samples]


def shorten(spans: Sequence[Span], voiced: np.ndarray, rate_hz: int, max_s: float) -> list[Span]:
    """Cut spans of more than `max_s` at the least voiced frame of their middle half, until none is too long.

    Args:
        voiced: `[T]`, how surely each 32 ms are speech (a probability or an energy).
    """
    hop, longest = round(0.032 * rate_hz), int(max_s * rate_hz)
    done: list[Span] = []
    left = list(reversed(spans))
    while left:
        span = left.pop()
        length = span.end - span.start
        if length <= longest:
            done.append(span)
            continue
        first, last = (span.start + length // 4) // hop + 1, (span.end - length // 4) // hop
        window = voiced[first:last]
        cut = (first + int(np.argmin(window))) * hop if len(window) else span.start + length // 2
        left += [Span(cut, span.end), Span(span.start, cut)]
    return done


def merge(spans: Sequence[Span], max_gap: int, longest: int) -> list[Span]:
    """Join neighbours not more than `max_gap` samples apart while the whole stays within `longest` samples."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.start - joined[-1].end <= max_gap and span.end - joined[-1].start <= longest:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined


def pad(spans: Sequence[Span], margin: int, longest: int, n_samples: int) -> list[Span]:
    """Widen each span by `margin` on both sides: at most to the middle of the gap, to the ends of the piece, and to `longest`."""
    padded = []
    for i, span in enumerate(spans):
        before = spans[i - 1].end if i else 0
        after = spans[i + 1].start if i + 1 < len(spans) else n_samples
        room = max(0, longest - (span.end - span.start))
        left = min(margin, span.start - before if not i else (span.start - before) // 2, room // 2)
        right = min(margin, after - span.end if i + 1 == len(spans) else (after - span.end) // 2, room - left)
        padded.append(Span(span.start - left, span.end + right))
    return padded
