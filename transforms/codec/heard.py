"""What a mel codec is fitted on: the log-mels of utterances, the crops that are drawn from them, and what of them is audible."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from schemas import Utterance
from transforms.codec import melspec
from transforms.codec.distil import Teacher
from transforms.resample import resample

_HELDOUT_EVERY = 40
"""One utterance in so many, by its id, is kept out of fitting and measured."""

_NEPERS_60_DB = 3 * math.log(10)


class Heard(NamedTuple):
    """An utterance to fit on: log-mel float16 `[80, S T]`, S mel frames in a vector, and the teacher's states float16
    `[T, dim]`, dim 0 without a teacher.
    """

    mel: Tensor
    states: Tensor


def hear(
    utterances: Iterable[Utterance], teacher: Teacher | None, stack: int, say: Callable[[str], None]
) -> tuple[list[Heard], list[Heard]]:
    """(to fit on, held out), with `stack` mel frames in a vector. Utterances shorter than that are left out."""
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
        (fitted if int(utterance.id, 16) % _HELDOUT_EVERY else heldout).append(Heard(mel, states))
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

    def draw(self, count: int, gain_db: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """float32 log-mels `[count, 80, S n]` of n vectors, each by up to `gain_db` louder or softer; states `[count, n, dim]`."""
        stack, n_vectors = self._stack, self._n_vectors
        mels, states = [], []
        for i in torch.multinomial(self._shares, count, replacement=True, generator=generator).tolist():
            heard = self._heard[i]
            start = int(torch.randint(0, heard.mel.shape[1] // stack - n_vectors + 1, (1,), generator=generator))
            mels.append(heard.mel[:, start * stack : (start + n_vectors) * stack].float())
            states.append(heard.states[start : start + n_vectors].float())
        gain = (torch.rand(count, 1, 1, generator=generator) * 2 - 1) * gain_db
        louder = (torch.stack(mels) + gain * (math.log(10) / 20)).clamp(min=math.log(melspec.FLOOR))
        return louder, torch.stack(states)


def audible(log_mel: Tensor) -> Tensor:
    """How much each value of `[B, 80, M]` counts, 0 to 1: 60 dB under an item's loud parts nothing, 30 dB under them all.

    Loud is what one value in a hundred exceeds. Under a voice lies a recording's noise, whose fine structure takes most bits and
    which nobody listens to.
    """
    loud = log_mel.flatten(1).quantile(0.99, dim=1)[:, None, None]
    return ((log_mel - loud + _NEPERS_60_DB) / (_NEPERS_60_DB / 2)).clamp(0, 1)
