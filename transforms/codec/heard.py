"""What a mel codec is fitted on: utterances' log-mels and sounds, crops that are drawn from them, and what of them is audible."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from schemas import Utterance
from transforms.codec import melspec, vocoded
from transforms.codec.distil import Teacher
from transforms.resample import resample

_HELDOUT_EVERY = 40
"""One utterance in so many, by its id, is kept out of fitting and measured."""

_FULL_SCALE = 32767

_NEPERS_60_DB = 3 * math.log(10)


class Heard(NamedTuple):
    """An utterance to fit on, of T vectors of S mel frames.

    Attributes:
        mel: log-mel, float16 `[80, S T]`.
        states: the teacher's, float16 `[T, dim]`, dim 0 without a teacher.
        sound: int16 `[n]` at 16 kHz, n 0 where nobody listens.
    """

    mel: Tensor
    states: Tensor
    sound: Tensor


class Drawn(NamedTuple):
    """Crops of n vectors.

    Attributes:
        mels: float32 `[B, 80, S n]`.
        states: float32 `[B, n, dim]`.
        sounds: float32 `[B, vocoded.n_samples(S n)]` at 16 kHz, empty where nobody listens.
    """

    mels: Tensor
    states: Tensor
    sounds: Tensor


def hear(
    utterances: Iterable[Utterance], teacher: Teacher | None, stack: int, sounds: bool, say: Callable[[str], None]
) -> tuple[list[Heard], list[Heard]]:
    """(to fit on, held out), with `stack` mel frames in a vector. Utterances shorter than that are left out.

    Args: sounds: whether the sounds are kept, for a listener.
    """
    fitted: list[Heard] = []
    heldout: list[Heard] = []
    hop = stack * melspec.HOP
    for utterance in utterances:
        samples = resample(utterance.samples, utterance.rate_hz, melspec.RATE_HZ)
        n_vectors = len(samples) // hop
        if not n_vectors:
            continue
        mel = melspec.log_mel(torch.from_numpy(samples[: n_vectors * hop])).half()
        states = (
            teacher.states(utterance, n_vectors, hop) if teacher else torch.zeros(n_vectors, 0, dtype=torch.float16)
        )
        sound = resample(utterance.samples, utterance.rate_hz, vocoded.RATE_HZ) if sounds else samples[:0]
        heard = Heard(mel, states, torch.from_numpy((sound.clip(-1, 1) * _FULL_SCALE).round().astype(np.int16)))
        (fitted if int(utterance.id, 16) % _HELDOUT_EVERY else heldout).append(heard)
        if (len(fitted) + len(heldout)) % 500 == 0:
            say(f"heard {len(fitted) + len(heldout)} utterances")
    return fitted, heldout


class Crops:
    """Crops of so many vectors from anywhere in utterances that are longer; each utterance as likely as it is long."""

    def __init__(self, heard: list[Heard], stack: int, n_vectors: int) -> None:
        """Raises ValueError where no utterance is long enough."""
        self._heard = [h for h in heard if h.mel.shape[1] > n_vectors * stack]
        if not self._heard:
            raise ValueError(f"{len(heard)} utterances, none of them longer than a crop of {n_vectors} vectors")
        self._stack, self._n_vectors = stack, n_vectors
        lengths = torch.tensor([h.mel.shape[1] for h in self._heard], dtype=torch.float64)
        self._shares = lengths / lengths.sum()

    def draw(self, count: int, gain_db: float, generator: torch.Generator) -> Drawn:
        """As many, each by up to `gain_db` louder or softer."""
        stack, n_vectors = self._stack, self._n_vectors
        n_samples = vocoded.n_samples(n_vectors * stack)
        mels, states, sounds = [], [], []
        for i in torch.multinomial(self._shares, count, replacement=True, generator=generator).tolist():
            heard = self._heard[i]
            start = int(torch.randint(0, heard.mel.shape[1] // stack - n_vectors + 1, (1,), generator=generator))
            mels.append(heard.mel[:, start * stack : (start + n_vectors) * stack].float())
            states.append(heard.states[start : start + n_vectors].float())
            if len(heard.sound):
                first = vocoded.n_samples(start * stack)
                sound = heard.sound[first : first + n_samples] / _FULL_SCALE
                # By rates that do not divide, the last crop can end past the sound by a sample.
                sounds.append(F.pad(sound, (0, n_samples - len(sound))))
        gain = (torch.rand(count, 1, 1, generator=generator) * 2 - 1) * gain_db
        louder = (torch.stack(mels) + gain * (math.log(10) / 20)).clamp(min=math.log(melspec.FLOOR))
        sound = torch.stack(sounds) * 10 ** (gain[..., 0] / 20) if sounds else torch.zeros(count, 0)
        return Drawn(louder, torch.stack(states), sound)


def audible(log_mel: Tensor) -> Tensor:
    """How much each value of `[B, 80, M]` counts, 0 to 1: 60 dB under an item's loud parts nothing, 30 dB under them all.

    Loud is what one value in a hundred exceeds. Under a voice lies a recording's noise, whose fine structure takes most bits and
    which nobody listens to.
    """
    loud = log_mel.flatten(1).quantile(0.99, dim=1)[:, None, None]
    return ((log_mel - loud + _NEPERS_60_DB) / (_NEPERS_60_DB / 2)).clamp(0, 1)
