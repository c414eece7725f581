"""Fit the overlap detector on conversations made of utterances whose speakers are known."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from scipy.signal import fftconvolve
from torch import Tensor
from torch.nn import functional as F

from schemas import Utterance
from transforms.align.fitting import FitHeadOptions, Heard, about, heard_by, heldout_speakers, start, train
from transforms.align.head import Ears, Head
from transforms.resample import resample
from transforms.speaker.overlap import CLASSES, KIND, spans
from transforms.vad import HOP, SileroVad
from transforms.weights import locate

_RATE_HZ = 16000
_FRAME = 160
_IGNORED = -100


class FitOverlapOptions(FitHeadOptions):
    """How to fit an overlap detector."""

    layer: int = 2
    """1-based layer of that encoder."""
    width: int = 96
    """Channels."""
    hours: float = Field(1.5, gt=0)
    """Length of all made conversations together; a tenth as much is made of the speakers kept out."""
    length_s: float = Field(20.0, gt=1, le=30)
    """Length of one of them."""
    pause_s: float = Field(1.5, gt=0)
    """Mean pause of a speaker between two utterances, drawn from an exponential distribution."""
    level_db: float = Field(9.0, ge=0)
    """The second speaker is at most so much louder or softer than the first."""


@dataclass
class Example(Heard):
    """A conversation. labels: int64 `[2T]`, how many speak in each frame, 2 standing for more."""

    labels: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class FittedOverlap:
    """What was written, and figures from conversations of the speakers held out, by frames of 10 ms at a threshold of 0.5.

    Attributes:
        n_conversations, hours: fitted on. share: of the held-out speech that is overlapped.
        precision, recall: of overlap. speech_error: share of frames taken for speech that are none, or the other way round.
    """

    path: Path
    n_conversations: int
    hours: float
    share: float
    precision: float
    recall: float
    speech_error: float


def fit_overlap(
    utterances: Iterable[Utterance], options: FitOverlapOptions, say: Callable[[str], None]
) -> FittedOverlap:
    """Make conversations, hear, fit and write. On one machine the same input and options give the same bytes.

    Args:
        utterances: read once and kept, 230 MB an hour. Needs samples and `given["speaker"]`, or sources of one speaker each.
        say: told of progress.

    Raises:
        ValueError: fewer than two speakers to fit on.
    """
    voices = by_speaker(utterances, options.heldout_every)
    ears, random = Ears(options.encoder, options.layer), np.random.default_rng(options.seed)
    examples: list[Example] = []
    for heldout, share in ((False, 1.0), (True, 0.1)):
        speakers = [said for kept_out, said in voices.values() if kept_out == heldout]
        if len(speakers) < 2:
            if heldout:
                break
            raise ValueError(f'{len(speakers)} speakers to fit on: a conversation needs two (given["speaker"])')
        for _ in range(max(1, round(share * options.hours * 3600 / options.length_s))):
            samples, labels = conversation(speakers, options, random)
            mel, encoded = ears(samples)
            examples.append(Example(mel.half().numpy(), encoded.half().numpy(), heldout, labels[: len(mel)]))
            if len(examples) % 50 == 0:
                say(f"made {len(examples)} conversations")
    kept = [e for e in examples if not e.heldout]
    network = start(ears.dim, options, CLASSES)
    train(network, kept, options, random, say, wrong_counts)
    network.half().float()  # as the file keeps it, so that the figures are those of the file
    held = [e for e in examples if e.heldout] or kept[:20]
    found = [heard_by(network, example) for example in held]
    share, precision, recall, speech_error = measure([np.exp(x) for x in found], [e.labels for e in held])
    counts = np.bincount(np.concatenate([e.labels for e in kept]), minlength=CLASSES)
    header = about(network, ears, options) | {
        "kind": KIND,
        "recipe": "transforms.speaker.fit_overlap.fit_overlap",
        "heldout_precision": round(precision, 4),
        "heldout_recall": round(recall, 4),
    }
    Head(network, (counts / counts.sum()).astype(np.float32), header, ears).save(options.path)
    hours = sum(len(e.labels) for e in kept) / 100 / 3600
    return FittedOverlap(options.path, len(kept), hours, share, precision, recall, speech_error)


def by_speaker(
    utterances: Iterable[Utterance], heldout_every: int
) -> dict[str, tuple[bool, list[tuple[np.ndarray, np.ndarray]]]]:
    """Speaker -> (kept out, his utterances: float32 `[n]` at 16 kHz, and bool `[n // 160]`, where the VAD hears him)."""
    vad, heldout = SileroVad(locate("silero-vad").path), heldout_speakers(heldout_every)
    found: dict[str, tuple[bool, list[tuple[np.ndarray, np.ndarray]]]] = {}
    for utterance in utterances:
        samples = resample(utterance.samples, utterance.rate_hz, _RATE_HZ)
        speaker = str(utterance.given.get("speaker", utterance.source))
        probabilities = vad.probabilities(samples, _RATE_HZ)
        at = np.arange(len(samples) // _FRAME) * _FRAME // HOP
        speech = probabilities[at] >= 0.5
        if speech.any():
            found.setdefault(speaker, (heldout(speaker), []))[1].append((samples.astype(np.float16), speech))
    return found


def conversation(
    speakers: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]], options: FitOverlapOptions, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two of the speakers, each talking without regard to the other; some far from the microphone, with noise.

    Returns float32 `[n]`, and int64 `[n // 160]`, how many speak.
    """
    n = round(options.length_s * _RATE_HZ)
    mixed, labels = np.zeros(n), np.zeros(n // _FRAME, np.int64)
    level_db = random.uniform(-options.level_db, options.level_db)
    for number, who in enumerate(random.choice(len(speakers), 2, replace=False)):
        track, at = np.zeros(n), int(random.exponential(options.pause_s) * _RATE_HZ)
        active = np.zeros(n // _FRAME, np.int64)
        while at < n - _FRAME:
            samples, speech = speakers[who][int(random.integers(len(speakers[who])))]
            at -= at % _FRAME
            part = samples[: n - at].astype(np.float64)
            heard = np.repeat(speech, _FRAME)[: len(part)]
            loudness = np.sqrt(np.mean(part[: len(heard)][heard] ** 2)) if heard.any() else 0.0
            track[at : at + len(part)] = part / max(loudness, 1e-4)
            own = active[at // _FRAME :][: len(speech)]
            own[:] = speech[: len(own)]
            at += len(samples) + int(random.exponential(options.pause_s) * _RATE_HZ)
        if random.random() < 0.5:
            track = fftconvolve(track, room(random))[:n]
        mixed += track * 10 ** (level_db * number / 20)
        labels += active
    mixed += noise(n, random) * 10 ** (-random.uniform(10, 45) / 20)
    return (0.05 * mixed).astype(np.float32), np.minimum(labels, CLASSES - 1)


def room(random: np.random.Generator) -> np.ndarray:
    """An impulse response: the direct sound, and noise that dies away by 60 dB in 0.2 to 0.8 s."""
    decay_s = random.uniform(0.2, 0.8)
    times = np.arange(int(decay_s * _RATE_HZ)) / _RATE_HZ
    tail = random.standard_normal(len(times)) * 10 ** (-3 * times / decay_s)
    tail *= 10 ** (-random.uniform(-3, 12) / 20) / np.linalg.norm(tail)
    tail[0] += 1.0
    return tail / np.linalg.norm(tail)


def noise(n: int, random: np.random.Generator) -> np.ndarray:
    """`[n]` of mean square 1, its power falling with the frequency by none to 6 dB an octave."""
    spectrum = np.fft.rfft(random.standard_normal(n))
    spectrum /= np.maximum(np.arange(len(spectrum)), 50.0) ** random.uniform(0, 1)
    made = np.fft.irfft(spectrum, n)
    return made / np.sqrt(np.mean(made**2))


def wrong_counts(logits: Tensor, examples: Sequence[Example]) -> Tensor:
    """Cross-entropy of every frame's count. Logits `[B, 2T, 3]`."""
    labels = torch.full(logits.shape[:2], _IGNORED)
    for row, example in enumerate(examples):
        labels[row, : len(example.mel)] = torch.from_numpy(example.labels)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)


def measure(
    found: Sequence[np.ndarray], labels: Sequence[np.ndarray], threshold: float = 0.5
) -> tuple[float, float, float, float]:
    """(share of overlap in speech, its precision, its recall, share of frames wrong about speech).

    Args:
        found: probabilities `[2T, 3]`. labels: how many speak `[2T]`.
    """
    said, both = np.concatenate(labels) > 0, np.concatenate(labels) > 1
    heard = np.concatenate([marked(x[:, 2], threshold) for x in found])
    speech = np.concatenate([x[:, 0] < 0.5 for x in found])
    hits = (heard & both).sum()
    precision, recall = hits / max(1, heard.sum()), hits / max(1, both.sum())
    return float(both.sum() / max(1, said.sum())), float(precision), float(recall), float(np.mean(speech != said))


def marked(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """bool `[T]`: the frames of `spans`."""
    found = np.zeros(len(probabilities), bool)
    for start_s, end_s in spans(probabilities, threshold):
        found[round(start_s * 100) : round(end_s * 100)] = True
    return found
