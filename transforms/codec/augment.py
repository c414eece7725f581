"""Other voices, rooms and microphones, made on log-mels: so that a codec fitted on few recordings codes those of others.

Voices: the frequency axis is stretched (vocal tract length perturbation, Jaitly and Hinton, 2013), pitch and formants with it.
Microphones: smooth gains over the bands. Rooms: late reverberation, whose power decays exponentially (Polack's model, here on
the power of mel bands), and stationary noise. All of it is restored too: a codec that was to take noise away would have to guess
what lies under it.
"""

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from transforms.codec import melspec
from transforms.options import Options

_KNOTS = 6
"""Of a smooth curve over the bands."""

_DB = math.log(10) / 20
"""Of a magnitude's natural logarithm in a decibel."""


class AugmentOptions(Options):
    """How crops are changed, each drawn anew. By default their gain alone: what more is worth is not known (docs/log.md)."""

    gain_db: float = Field(default=6.0, ge=0)
    """Louder or softer by up to this, so that the codec does not depend on how loud a recording is."""
    curve_db: float = Field(default=0.0, ge=0)
    """A smooth curve over the bands of up to this, as another microphone would have; 6 was tried."""
    stretch: float = Field(default=0.0, ge=0, lt=1)
    """The frequency axis is stretched or squeezed by up to this share; 0.12 was tried."""
    noisy_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops with noise, 10 to 40 dB below the speech; 0.3 was tried."""
    room_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops with reverberation of 0.15 to 0.6 s, 3 to 15 dB below the speech; 0.15 was tried."""


class Augment:
    """Draws changes of log-mels `[B, 80, M]`."""

    def __init__(self, options: AugmentOptions, generator: torch.Generator) -> None:
        self.options, self._generator = options, generator

    def __call__(self, log_mel: Tensor) -> Tensor:
        """`[B, 80, M]` -> the same, as another voice, room and microphone would have it."""
        o, n = self.options, len(log_mel)
        made = stretched(log_mel, 1 + self._between(-o.stretch, o.stretch, n)) if o.stretch else log_mel
        made = self._some(made, self._room(made), o.room_share) if o.room_share else made
        made = self._some(made, self._noisy(made), o.noisy_share) if o.noisy_share else made
        decibels = self._between(-o.gain_db, o.gain_db, n)[:, None] + self._curve(n, o.curve_db)
        return (made + _DB * decibels[..., None]).clamp(min=math.log(melspec.FLOOR))

    def _between(self, low: float, high: float, n: int) -> Tensor:
        return torch.rand(n, generator=self._generator) * (high - low) + low

    def _some(self, plain: Tensor, changed: Tensor, share: float) -> Tensor:
        chosen = torch.rand(len(plain), generator=self._generator) < share
        return torch.where(chosen[:, None, None], changed, plain)

    def _curve(self, n: int, decibels: float) -> Tensor:
        """`[n, 80]`."""
        knots = self._between(-decibels, decibels, n * _KNOTS).view(n, 1, _KNOTS)
        return F.interpolate(knots, size=melspec.N_MELS, mode="linear", align_corners=True)[:, 0]

    def _room(self, log_mel: Tensor) -> Tensor:
        n = len(log_mel)
        return reverberant(log_mel, self._between(0.15, 0.6, n), self._between(-15, -3, n))

    def _noisy(self, log_mel: Tensor) -> Tensor:
        """Gaussian noise of a smooth spectrum, from mel frames of a sound of its own for each crop."""
        n, _, length = log_mel.shape
        white = torch.randn(n * length * melspec.HOP, generator=self._generator)
        noise = melspec.log_mel(white).view(melspec.N_MELS, n, length).transpose(0, 1)
        noise = noise + _DB * self._curve(n, 15.0)[..., None]
        below = self._between(10, 40, n)
        shift = _level(log_mel) - _level(noise) - 2 * _DB * below
        return _sum(log_mel, noise + shift[:, None, None] / 2)


def stretched(log_mel: Tensor, factors: Tensor) -> Tensor:
    """`[B, 80, M]` with the frequency axis of each item stretched by one of `[B]`: what was at f Hz is at f times the factor."""
    centres = _centres_hz()
    wanted = centres / factors[:, None]
    right = torch.searchsorted(centres, wanted).clamp(1, len(centres) - 1)
    left = right - 1
    share = ((wanted - centres[left]) / (centres[right] - centres[left])).clamp(0, 1)[..., None]
    low, high = (log_mel.gather(1, i[..., None].expand_as(log_mel)) for i in (left, right))
    return low + share * (high - low)


def reverberant(log_mel: Tensor, decay_s: Tensor, decibels: Tensor) -> Tensor:
    """`[B, 80, M]` with a tail: its power falls by 60 dB in `decay_s` `[B]`, and is `decibels` `[B]` of the direct sound's."""
    n, _, length = log_mel.shape
    frame_s = melspec.HOP / melspec.RATE_HZ
    steps = torch.arange(1, min(length, round(0.6 / frame_s)) + 1)
    tail = 10 ** (-6 * steps * frame_s / decay_s[:, None])
    tail = tail / tail.sum(1, keepdim=True) * 10 ** (decibels[:, None] / 10)
    kernel = torch.cat([tail.flip(1), torch.ones(n, 1)], dim=1)[:, None]
    power = F.pad((2 * log_mel).exp().transpose(0, 1), (len(steps), 0))
    return F.conv1d(power, kernel, groups=n).transpose(0, 1).log() / 2


def _centres_hz() -> Tensor:
    """`[80]`: the peak of each mel filter."""
    filters = melspec.filters()
    bins = torch.arange(filters.shape[1]) * (melspec.RATE_HZ / melspec.N_FFT)
    return (filters * bins).sum(1) / filters.sum(1)


def _level(log_mel: Tensor) -> Tensor:
    """`[B]`: natural logarithm of the mean power of `[B, 80, M]`."""
    return (2 * log_mel).exp().mean((1, 2)).log()


def _sum(one: Tensor, other: Tensor) -> Tensor:
    """Log-magnitudes of two sounds without regard to each other: their powers add."""
    return torch.logaddexp(2 * one, 2 * other) / 2
