"""The network of the mel codec: log-mel frames -> residual codes -> log-mel frames."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from transforms.codec.melspec import HOP, N_MELS
from transforms.codec.refined import RefinedVQ
from transforms.taste.rvq import ResidualVQ


class Quantised(NamedTuple):
    """What a training pass through the quantisers gives; gradients pass straight through to the encoder.

    Attributes:
        vectors: `[B, T, C]`, for the decoder.
        first: `[B, T, C]`, the first codebook's part: of the branch where there is one.
        commitment: scalar, as in `transforms.taste.rvq`.
    """

    vectors: Tensor
    first: Tensor
    commitment: Tensor


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
    """Encoder, residual quantiser and decoder, all at the codec's own rate and none of them causal.

    Attributes:
        shape: the arguments it was made with, as they stand in the file's header.
        pair: 2 where a codec frame is a pair of vectors (`transforms.codec.refined`), else 1. hop: samples of a codec frame, at
            22.05 kHz.
        mean, deviation: `[80]`, of each log-mel band over the data; the network works on normalised bands.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        stack: int = 2,
        channels: int = 192,
        encoder_blocks: int = 3,
        decoder_blocks: int = 4,
        expansion: int = 2,
        kernel: int = 7,
        levels: int = 4,
        size: int = 1024,
        code_dim: int = 64,
        content_blocks: int = 0,
        guess_width: int = 0,
    ) -> None:
        """
        Args:
            stack: mel frames in a vector of the network: 2 for 43.07 Hz, 4 for 21.53.
            levels, size, code_dim: codebooks, codes in each, and dimensions they live in.
            content_blocks: blocks of a branch of the encoder whose output the first codebook codes, in a space of its own;
                the others code what it leaves of the encoder's output. 0: no branch, all code the encoder's output.
            guess_width: of the convolutions that foretell vectors from their neighbours, a codec frame being a pair of vectors.
                0: a plain residual quantiser, which codes each vector by itself, as a frame; always with a branch.
        """
        if guess_width and content_blocks:
            raise ValueError(f"guess_width {guess_width} and content_blocks {content_blocks}: one of them is 0")
        super().__init__()
        self.shape = {
            "stack": stack,
            "channels": channels,
            "encoder_blocks": encoder_blocks,
            "decoder_blocks": decoder_blocks,
            "expansion": expansion,
            "kernel": kernel,
            "levels": levels,
            "size": size,
            "code_dim": code_dim,
            "content_blocks": content_blocks,
            "guess_width": guess_width,
        }
        self.stack, self.pair = stack, 2 if guess_width else 1
        self.hop = self.pair * stack * HOP
        self.register_buffer("mean", torch.zeros(N_MELS))
        self.register_buffer("deviation", torch.ones(N_MELS))
        self.enter = nn.Conv1d(stack * N_MELS, channels, 3, padding=1)
        self.encoder = nn.Sequential(*(Block(channels, expansion, kernel) for _ in range(encoder_blocks)))
        self.content = nn.Sequential(*(Block(channels, expansion, kernel) for _ in range(content_blocks)))
        if content_blocks:
            self.content_quantiser = ResidualVQ(channels, levels=1, size=size, code_dim=code_dim)
            self.content_out = nn.Linear(channels, channels)
        self.quantiser: ResidualVQ
        if guess_width:
            self.quantiser = RefinedVQ(channels, levels=levels, size=size, code_dim=code_dim, width=guess_width)
        else:
            self.quantiser = ResidualVQ(channels, levels=levels - bool(content_blocks), size=size, code_dim=code_dim)
        self.decoder = nn.Sequential(*(Block(channels, expansion, kernel) for _ in range(decoder_blocks)))
        self.leave = nn.Conv1d(channels, stack * N_MELS, 3, padding=1)

    def normalise(self, log_mel: Tensor) -> Tensor:
        """`[B, 80, M]` log-mel -> the same with bands of zero mean and unit variance over the data."""
        return (log_mel - self.mean[:, None]) / self.deviation[:, None]

    def latent(self, log_mel: Tensor) -> Tensor:
        """Log-mel `[B, 80, S T]` -> `[B, T, C]`, before quantisation."""
        n_batch, _, n_mel_frames = log_mel.shape
        frames = self.normalise(log_mel).reshape(n_batch, N_MELS, n_mel_frames // self.stack, self.stack)
        stacked = frames.permute(0, 3, 1, 2).flatten(1, 2)
        return self.encoder(self.enter(stacked)).transpose(1, 2)

    def restore(self, latent: Tensor) -> Tensor:
        """`[B, T, C]` -> log-mel `[B, 80, S T]`."""
        stacked = self.leave(self.decoder(latent.transpose(1, 2))).unflatten(1, (self.stack, N_MELS))
        normal = stacked.permute(0, 2, 3, 1).flatten(2)
        return normal * self.deviation[:, None] + self.mean[:, None]

    @property
    def codebooks(self) -> Tensor:
        """`[K, size, code_dim]`, of each code of a frame. With a branch, the first is in another space than the rest."""
        if isinstance(self.quantiser, RefinedVQ):
            return torch.stack([self.quantiser.codebook(turn) for turn in range(len(self.quantiser.sizes))])
        rest = self.quantiser.codebooks
        return torch.cat([self.content_quantiser.codebooks, rest]) if self.content else rest

    @property
    def levels(self) -> list[Tensor]:
        """Of each codebook the part of a latent, as `encode_both` gives it, that its codes stand for: `[size, d]`."""
        if not self.content:
            return self.quantiser.parts if isinstance(self.quantiser, RefinedVQ) else list(self.quantiser.codebooks)
        width = self.quantiser.codebooks.shape[-1]
        first = [functional.pad(self.content_quantiser.codebooks[0], (0, width))]
        return first + [functional.pad(codebook, (width, 0)) for codebook in self.quantiser.codebooks]

    @property
    def sizes(self) -> tuple[int, ...]:
        return (*(self.content_quantiser.sizes if self.content else ()), *self.quantiser.sizes)

    def unquantised(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, C]` through the quantisers' projections alone -> (what `restore` gets, the branch)."""
        if not self.content:
            whole = _projected(self.quantiser, latent)
            return whole, whole
        first = _projected(self.content_quantiser, self._branch(latent))
        content = self.content_out(first.detach())
        return content + _projected(self.quantiser, latent - content), first

    @torch.no_grad()
    def initialise(self, latent: Tensor, generator: torch.Generator) -> None:
        """Set projections and codebooks by k-means on `[B, T, C]`."""
        flat = latent.flatten(0, 1)
        if self.content:
            branch = self._branch(latent).flatten(0, 1)
            self.content_quantiser.initialise(branch, generator)
            flat = flat - self.content_out(self.content_quantiser.decode(self.content_quantiser.encode(branch)))
        self.quantiser.initialise(flat, generator)

    def quantise(self, latent: Tensor, keep: Tensor, generator: torch.Generator) -> Quantised:
        """One training pass.

        Args:
            latent: `[B, T, C]`. keep: int64 `[B]`, of how many codebooks each item's sound is to be restored, 1 to K.
        """
        if isinstance(self.quantiser, RefinedVQ):
            vectors, indices, commitment = self.quantiser(latent, generator, keep)
            return Quantised(vectors, self._first_passed(latent, self.quantiser.first(indices)), commitment)
        keep = keep.repeat_interleave(latent.shape[1])
        if not self.content:
            flat = latent.flatten(0, 1)
            vectors, indices, commitment = self.quantiser(flat, generator, keep)
            first = self._first_passed(flat, self.quantiser.codebooks[0][indices[:, 0]])
            return Quantised(vectors.view_as(latent), first.view_as(latent), commitment)
        first, _, commitment = self.content_quantiser(
            self._branch(latent).flatten(0, 1), generator, torch.ones_like(keep)
        )
        # Restoring the sound does not reach the branch: its codebook would turn to the sound, the voice with it.
        content = self.content_out(first.detach())
        rest, _, more = self.quantiser(latent.flatten(0, 1) - content, generator, keep - 1)
        total = content + rest * (keep > 1)[:, None]
        return Quantised(total.view_as(latent), first.view_as(latent), commitment + more)

    @torch.inference_mode()
    def encode(self, log_mel: Tensor) -> Tensor:
        """Log-mel `[80, S T]` -> int64 codes `[K, T]`."""
        return self._codes(self.latent(log_mel[None]))

    @torch.inference_mode()
    def encode_both(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel `[80, S T]` -> (codes `[K, T]`, latents `[T, d]`: what the quantisers would code, in their own spaces).

        With a branch, a latent is its two parts one after the other, as in `unquantised`.
        """
        latent = self.latent(log_mel[None])
        if not self.content:
            return self._codes(latent), self.quantiser.project_in(latent[0]).unflatten(0, (-1, self.pair)).flatten(1)
        first = self.content_quantiser.project_in(self._branch(latent)[0])
        content = self.content_out(self.content_quantiser.project_out(first))
        return self._codes(latent), torch.cat([first, self.quantiser.project_in(latent[0] - content)], dim=1)

    @torch.inference_mode()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents `[T, d]`, as `encode_both` gives them -> log-mel `[80, S T]`. Nothing is quantised."""
        width = self.quantiser.codebooks.shape[-1]
        last = latents[:, -width * self.pair :].unflatten(1, (self.pair, width)).flatten(0, 1)
        vectors = self.quantiser.project_out(last)
        if self.content:
            vectors = vectors + self.content_out(self.content_quantiser.project_out(latents[:, :width]))
        return self.restore(vectors[None])[0]

    def _codes(self, latent: Tensor) -> Tensor:
        """`[1, T, C]` -> int64 `[K, T]`."""
        if not self.content:
            return self.quantiser.encode(latent)[0].T
        first = self.content_quantiser.encode(self._branch(latent)[0])
        rest = self.quantiser.encode(latent[0] - self.content_out(self.content_quantiser.decode(first)))
        return torch.cat([first, rest], dim=1).T

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """int64 codes `[k, T]`, the first k of K codebooks -> log-mel `[80, S T]`."""
        if not self.content:
            quantised = self.quantiser.decode(codes.T[None])[0]
        else:
            quantised = self.content_out(self.first(codes))
            if len(codes) > 1:
                quantised = quantised + self.quantiser.decode(codes[1:].T)
        return self.restore(quantised[None])[0]

    @torch.inference_mode()
    def first(self, codes: Tensor) -> Tensor:
        """int64 codes `[k, T]` -> `[T, C]`, of pairs `[2 T, C]`: what the first codebook says, in the branch's space if any."""
        return (self.content_quantiser if self.content else self.quantiser).decode(codes[: self.pair].T[None])[0]

    def _first_passed(self, latent: Tensor, codes: Tensor) -> Tensor:
        """The first codebook's vectors `[..., d]` in `restore`'s space; gradients pass straight through to latents `[..., C]`."""
        projected = self.quantiser.project_in(latent)
        return self.quantiser.project_out(projected + (codes - projected).detach())

    def _branch(self, latent: Tensor) -> Tensor:
        """`[B, T, C]` -> the same, of the first codebook's branch."""
        return self.content(latent.transpose(1, 2)).transpose(1, 2)


def _projected(quantiser: ResidualVQ, vectors: Tensor) -> Tensor:
    """`[..., C]` into the quantiser's space and back."""
    return quantiser.project_out(quantiser.project_in(vectors))
