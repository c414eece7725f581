"""The network of the mel codec: log-mel frames -> residual codes -> log-mel frames."""

import torch
from torch import Tensor, nn

from transforms.codec.melspec import N_MELS
from transforms.taste.rvq import ResidualVQ

STACK = 2
"""Mel frames in a codec frame."""


class Block(nn.Module):
    """A ConvNeXt block in one dimension (arXiv 2201.03545, as Vocos uses it, arXiv 2306.00814): `[B, C, T]` -> the same."""

    def __init__(self, channels: int, expansion: int, kernel: int) -> None:
        super().__init__()
        self.spread = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, expansion * channels)
        self.narrow = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        update = self.norm(self.spread(x).transpose(1, 2))
        return x + self.narrow(nn.functional.gelu(self.widen(update))).transpose(1, 2)


class MelCodecNetwork(nn.Module):
    """Encoder, residual quantiser and decoder, all at the codec's own rate (43.07 Hz) and none of them causal.

    Attributes:
        shape: the arguments it was made with, as they stand in the file's header.
        mean, deviation: `[80]`, of each log-mel band over the data; the network works on normalised bands.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        channels: int = 192,
        encoder_blocks: int = 3,
        decoder_blocks: int = 4,
        expansion: int = 2,
        kernel: int = 7,
        levels: int = 4,
        size: int = 1024,
        code_dim: int = 64,
        dropout: float = 0.1,
    ) -> None:
        """
        Args:
            levels, size, code_dim: codebooks, codes in each, and dimensions they live in.
            dropout: share of training frames that keep only their first levels.
        """
        super().__init__()
        self.shape = {
            "channels": channels,
            "encoder_blocks": encoder_blocks,
            "decoder_blocks": decoder_blocks,
            "expansion": expansion,
            "kernel": kernel,
            "levels": levels,
            "size": size,
            "code_dim": code_dim,
        }
        self.register_buffer("mean", torch.zeros(N_MELS))
        self.register_buffer("deviation", torch.ones(N_MELS))
        self.enter = nn.Conv1d(STACK * N_MELS, channels, 3, padding=1)
        self.encoder = nn.Sequential(*(Block(channels, expansion, kernel) for _ in range(encoder_blocks)))
        self.quantiser = ResidualVQ(channels, levels=levels, size=size, code_dim=code_dim, dropout=dropout)
        self.decoder = nn.Sequential(*(Block(channels, expansion, kernel) for _ in range(decoder_blocks)))
        self.leave = nn.Conv1d(channels, STACK * N_MELS, 3, padding=1)

    def normalise(self, log_mel: Tensor) -> Tensor:
        """`[B, 80, M]` log-mel -> the same with bands of zero mean and unit variance over the data."""
        return (log_mel - self.mean[:, None]) / self.deviation[:, None]

    def latent(self, log_mel: Tensor) -> Tensor:
        """Log-mel `[B, 80, 2T]` -> `[B, T, C]`, before quantisation."""
        n_batch, _, n_mel_frames = log_mel.shape
        frames = self.normalise(log_mel).reshape(n_batch, N_MELS, n_mel_frames // STACK, STACK)
        stacked = frames.permute(0, 3, 1, 2).reshape(n_batch, STACK * N_MELS, n_mel_frames // STACK)
        return self.encoder(self.enter(stacked)).transpose(1, 2)

    def restore(self, latent: Tensor) -> Tensor:
        """`[B, T, C]` -> log-mel `[B, 80, 2T]`."""
        n_batch, n_frames, _ = latent.shape
        stacked = self.leave(self.decoder(latent.transpose(1, 2))).reshape(n_batch, STACK, N_MELS, n_frames)
        normal = stacked.permute(0, 2, 3, 1).reshape(n_batch, N_MELS, n_frames * STACK)
        return normal * self.deviation[:, None] + self.mean[:, None]

    @torch.inference_mode()
    def encode(self, log_mel: Tensor) -> Tensor:
        """Log-mel `[80, 2T]` -> int64 codes `[K, T]`."""
        return self.quantiser.encode(self.latent(log_mel[None])[0]).T

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """int64 codes `[k, T]`, the first k of K codebooks -> log-mel `[80, 2T]`."""
        return self.restore(self.quantiser.decode(codes.T)[None])[0]
