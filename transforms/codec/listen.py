"""A frozen recogniser as a measure of distance between two log-mels: what it does not hear, need not be kept.

What it hears: a feature loss after Johnson et al., "Perceptual Losses for Real-Time Style Transfer" (arXiv 1603.08155), with
Whisper's encoder as the network. What it understands: the divergence of its decoder's distributions over tokens, a teacher of
itself (Hinton et al., arXiv 1503.02531) that hears the original.

Whisper's log-mel and HiFi-GAN's have the same 80 Slaney bands up to 8 kHz, one of power every 10 ms, the other of magnitude every
11.6 ms: so one is read off the other, and gradients reach the codec without a waveform between them.
"""

import math

import torch
from torch import Tensor, nn
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
    """Whisper, frozen: how differently it hears and understands two sounds."""

    def __init__(self, model: str) -> None:
        """Raises MissingWeights where the model is not on this machine."""
        whisper = load_whisper(model).requires_grad_(False)
        self._encoder, self._decoder, self._multilingual = whisper.encoder, whisper.decoder, whisper.is_multilingual
        self.n_given = 4 if whisper.is_multilingual else 2
        self.sha256 = parameters_sha256(self._encoder)

    def distance(self, restored: Tensor, original: Tensor) -> Tensor:
        """Log-mels `[B, 80, M]`, M up to 30 s -> a scalar: the mean over layers of the squared distance of their states, as a
        share of the states' own variance.
        """
        with torch.no_grad():
            wanted = self._states(whisper_mel(original))
        return _unlike(self._states(whisper_mel(restored)), wanted)

    def tokens(self, text: str, language: str) -> Tensor:
        """int64 `[n]`: the text as Whisper writes it, from the start of transcript to the end of text."""
        from whisper.tokenizer import get_tokenizer

        tokenizer = get_tokenizer(self._multilingual, language=language, task="transcribe")
        said = [*tokenizer.sot_sequence_including_notimestamps, *tokenizer.encode(f" {text.strip()}"), tokenizer.eot]
        return torch.tensor(said)

    def compare(self, restored: Tensor, original: Tensor, texts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Log-mels of whole utterances `[B, 80, M]`, and their `tokens` -> (`distance`, divergence in nats a token of the text).

        The divergence is Kullback and Leibler's, of the token that follows, all before it given.
        """
        given = nn.utils.rnn.pad_sequence(texts, batch_first=True)
        # What is predicted after the last token that is always given, and before the end.
        places = torch.arange(given.shape[1] - 1)
        asked = (places >= self.n_given - 1) & (places < torch.tensor([len(text) - 1 for text in texts])[:, None])
        with torch.no_grad():
            wanted = self._states(whisper_mel(original))
            expected = self._decoder(given[:, :-1], wanted[-1])[asked].float().log_softmax(-1)
        heard = self._states(whisper_mel(restored))
        found = self._decoder(given[:, :-1], heard[-1])[asked].float().log_softmax(-1)
        return _unlike(heard, wanted), F.kl_div(found, expected, log_target=True, reduction="batchmean")

    def _states(self, mel: Tensor) -> list[Tensor]:
        encoder = self._encoder
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        x = x + encoder.positional_embedding[: x.shape[1]]
        states = []
        for block in encoder.blocks:
            x = block(x)
            states.append(x)
        return [*states[:-1], encoder.ln_post(x)]


def _unlike(heard: list[Tensor], wanted: list[Tensor]) -> Tensor:
    return torch.stack([(h - w).square().mean() / w.var() for h, w in zip(heard, wanted, strict=True)]).mean()


def balanced(loss: Tensor, output: Tensor, norm: Tensor) -> Tensor:
    """What has the gradients of `loss` with respect to `output` `[B, ...]`, but of the same norm for each item and `norm` in all.

    It goes on from `output`: the way from there to `loss` is done with.
    """
    (gradient,) = torch.autograd.grad(loss, output)
    each = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (gradient.dim() - 1))
    return (output * gradient / each).sum() * norm / len(output) ** 0.5
