"""What a codec is fitted on: the log-mels of utterances, and the crops and whole utterances that are drawn from them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from transforms.codec import melspec
from transforms.codec.network import STACK

_LONGEST, _SILENCE, _NEIGHBOURS = 1024, 44, 64
"""Of whole utterances: mel frames (12 s) of the longest, and of silence after them (0.5 s), without which a recogniser goes on; and
from how many of about the same length those of a step are drawn."""


class Heard(NamedTuple):
    """An utterance to fit on: log-mel float16 `[80, 2T]`, the teacher's states float16 `[T, dim]`, dim 0 without a teacher, and
    the text as the listener's tokens int64 `[n]`, none where it is not read.
    """

    mel: Tensor
    states: Tensor
    tokens: Tensor


def draw(shares: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Indices of utterances, each as likely as it is long."""
    return torch.multinomial(shares, count, replacement=True, generator=generator).tolist()


def by_length(heard: list[Heard]) -> list[Heard]:
    """Those that a recogniser reads at once, from the shortest to the longest."""
    return sorted((h for h in heard if h.mel.shape[1] <= _LONGEST), key=lambda h: h.mel.shape[1])


def whole_utterances(alike: list[Heard], count: int, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    """`count` utterances that are about as long: float32 log-mels `[count, 80, M]`, silence after them, and their tokens."""
    at = int(torch.randint(0, len(alike), (1,), generator=generator))
    start = max(0, min(at - _NEIGHBOURS // 2, len(alike) - _NEIGHBOURS))
    drawn = torch.randint(start, min(start + _NEIGHBOURS, len(alike)), (count,), generator=generator)
    chosen = [alike[i] for i in drawn.tolist()]
    length = max(h.mel.shape[1] for h in chosen) + _SILENCE
    mels = torch.full((count, melspec.N_MELS, length), math.log(melspec.FLOOR))
    for mel, h in zip(mels, chosen, strict=True):
        mel[:, : h.mel.shape[1]] = h.mel
    return mels, [h.tokens for h in chosen]


def crops(
    heard: list[Heard], shares: Tensor, count: int, n_frames: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`count` crops from anywhere: float32 log-mels `[count, 80, 2 n_frames]` and states `[count, n_frames, dim]`."""
    mels, states = [], []
    for i in draw(shares, count, generator):
        start = int(torch.randint(0, heard[i].mel.shape[1] // STACK - n_frames + 1, (1,), generator=generator))
        mels.append(heard[i].mel[:, start * STACK : (start + n_frames) * STACK].float())
        states.append(heard[i].states[start : start + n_frames].float())
    return torch.stack(mels), torch.stack(states)
