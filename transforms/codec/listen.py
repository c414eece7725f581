"""A frozen recogniser's encoder as a measure of distance between two log-mels: what it does not hear, need not be kept.

A feature loss after Johnson et al., "Perceptual Losses for Real-Time Style Transfer" (arXiv 1603.08155), with Whisper's encoder as
the network. Whisper's log-mel and HiFi-GAN's have the same 80 Slaney bands up to 8 kHz, one of power every 10 ms, the other of
magnitude every 11.6 ms: so one is read off the other, and gradients reach the codec without a waveform between them.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from transforms.codec import melspec
from transforms.units.encoder import parameters_sha256
from transforms.whisper_model import load_whisper

_OFFSET = 0.64
"""Whisper's log10 of power less twice HiFi-GAN's log10 of magnitude: windows of 400 and 1,024 samples. Median over speech."""

_RATE_HZ = 100
"""Of Whisper's log-mel."""


def whisper_mel(log_mel: Tensor) -> Tensor:
    """HiFi-GAN's log-mel `[B, 80, M]` -> Whisper's, `[B, 80, round(M * 256 / 22050 * 100)]`, nearly."""
    n_frames = round(log_mel.shape[-1] * melspec.HOP / melspec.RATE_HZ * _RATE_HZ)
    power = F.interpolate(log_mel * (2 / math.log(10)) + _OFFSET, size=n_frames, mode="linear")
    loudest = power.detach().amax((1, 2), keepdim=True)
    return (torch.maximum(power, loudest - 8.0) + 4.0) / 4.0


class Listener:
    """Whisper's encoder, frozen: how differently it hears two sounds."""

    def __init__(self, model: str) -> None:
        """Raises MissingWeights where the model is not on this machine."""
        # Without gradients of its own weights, which nobody asks for, a step takes less time.
        self._encoder = load_whisper(model).encoder.requires_grad_(False)
        self.sha256 = parameters_sha256(self._encoder)

    def distance(self, restored: Tensor, original: Tensor) -> Tensor:
        """Log-mels `[B, 80, M]`, M up to 30 s -> a scalar: the mean over layers of the squared distance of their states, as a
        share of the states' own variance.
        """
        with torch.no_grad():
            wanted = self._states(whisper_mel(original))
        heard = self._states(whisper_mel(restored))
        return torch.stack([(h - w).square().mean() / w.var() for h, w in zip(heard, wanted, strict=True)]).mean()

    def _states(self, mel: Tensor) -> list[Tensor]:
        encoder = self._encoder
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        x = x + encoder.positional_embedding[: x.shape[1]]
        states = []
        for block in encoder.blocks:
            x = block(x)
            states.append(x)
        return [*states[:-1], encoder.ln_post(x)]


def balanced(gradient: Tensor, others: Tensor) -> Tensor:
    """Gradients `[B, ...]`, each brought to the mean norm of the `others` `[B', ...]`.

    As EnCodec balances its losses (arXiv 2210.13438, section 3.4): what a recogniser's gradient weighs differs a
    hundredfold from sound to sound, and unscaled it undoes a fit.
    """
    each = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
    wanted = others.flatten(1).norm(dim=1).mean()
    return gradient * (wanted / each).view(-1, *[1] * (gradient.dim() - 1))
