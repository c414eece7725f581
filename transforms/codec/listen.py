"""A frozen recogniser's encoder as a measure of distance between two sounds: what it does not hear, need not be kept.

A feature loss after Johnson et al., "Perceptual Losses for Real-Time Style Transfer" (arXiv 1603.08155), with Whisper's encoder as
the network. It hears an original as it is, and a restored log-mel as the vocoder will sound it (transforms/codec/vocoded.py); so a
codec also learns to write log-mels that suffer least from the vocoder.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from transforms.codec.vocoded import VocodedMel, log_power, scaled
from transforms.units.encoder import parameters_sha256
from transforms.whisper_model import load_whisper


class Listener:
    """Whisper's encoder, frozen: how differently it hears two sounds, one of them still a log-mel."""

    def __init__(self, model: str, vocoded: VocodedMel) -> None:
        """Raises MissingWeights where the model is not on this machine."""
        # Without gradients of its own weights, which nobody asks for, a step takes less time.
        self._encoder = load_whisper(model).encoder.requires_grad_(False)
        self._vocoded = vocoded
        self.sha256 = parameters_sha256(self._encoder)

    def distance(self, restored: Tensor, sound: Tensor) -> Tensor:
        """HiFi-GAN's log-mels `[B, 80, M]` and the originals' sound `[B, n_samples(M)]` at 16 kHz, up to 30 s -> a scalar: the mean
        over layers of the squared distance of their states, as a share of the states' own variance.
        """
        with torch.no_grad():
            wanted = self._states(scaled(log_power(sound)))
        heard = self._states(scaled(self._vocoded(restored).float()))
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
