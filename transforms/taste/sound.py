"""Units, word codes and a voice -> log-mel frames of the universal HiFi-GAN -> sound."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.errors import UserError
from transforms.codec import melspec
from transforms.codec.hifigan import Vocoder
from transforms.codec.network import Block
from transforms.taste.aggregator import FRAME_HZ

VOCODER = "hifigan-universal"

_CARD = "antiphon"


def mel_frames(n_frames: int) -> int:
    """How many log-mel frames (86.13 a second) `n_frames` unit frames (50 a second) last."""
    return round(n_frames / FRAME_HZ * melspec.RATE_HZ / melspec.HOP)


class SoundNetwork(nn.Module):
    """ConvNeXt blocks at the units' rate, then at that of the log-mel frames; the voice is added to every frame.

    Attributes:
        shape: the arguments it was made with, as they stand in the file's header.
        mean, deviation: `[80]`, of each log-mel band over the data.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        n_units: int,
        *,
        latent_dim: int = 128,
        speaker_dim: int = 256,
        channels: int = 256,
        unit_blocks: int = 4,
        mel_blocks: int = 4,
        kernel: int = 7,
    ) -> None:
        super().__init__()
        self.shape = {
            "n_units": n_units,
            "latent_dim": latent_dim,
            "speaker_dim": speaker_dim,
            "channels": channels,
            "unit_blocks": unit_blocks,
            "mel_blocks": mel_blocks,
            "kernel": kernel,
        }
        self.register_buffer("mean", torch.zeros(melspec.N_MELS))
        self.register_buffer("deviation", torch.ones(melspec.N_MELS))
        self.unit_in = nn.Embedding(n_units, channels)
        self.code_in = nn.Linear(latent_dim, channels)
        self.voice_in = nn.Linear(speaker_dim, channels)
        self.unit_blocks = nn.Sequential(*(Block(channels, 2, kernel) for _ in range(unit_blocks)))
        self.mel_blocks = nn.Sequential(*(Block(channels, 2, kernel) for _ in range(mel_blocks)))
        self.leave = nn.Conv1d(channels, melspec.N_MELS, 3, padding=1)

    def forward(self, units: Tensor, latents: Tensor, voice: Tensor, n_mel: int) -> Tensor:
        """Normalised log-mel, `[B, 80, n_mel]`.

        Args:
            units: int64 `[B, T]`. latents: `[B, T, latent_dim]`, the sum of the codes of the frame's word; zeros without.
            voice: `[B, speaker_dim]`.
        """
        x = self.unit_in(units) + self.code_in(latents) + self.voice_in(voice)[:, None]
        x = self.unit_blocks(x.transpose(1, 2))
        x = F.interpolate(x, size=n_mel, mode="linear") + self.voice_in(voice)[:, :, None]
        return self.leave(self.mel_blocks(x))


class Sound:
    """A fitted network and the vocoder."""

    def __init__(self, network: SoundNetwork) -> None:
        self.network = network.eval()
        self._vocoder: Vocoder | None = None

    @torch.inference_mode()
    def log_mel(self, units: np.ndarray, latents: np.ndarray, voice: np.ndarray) -> Tensor:
        """int `[T]`, float32 `[T, latent_dim]`, float32 `[S]` -> `[80, M]`."""
        given = torch.from_numpy(units)[None], torch.from_numpy(latents)[None], torch.from_numpy(voice)[None]
        normal = self.network(*given, mel_frames(len(units)))[0]
        return normal * self.network.deviation[:, None] + self.network.mean[:, None]

    def __call__(self, units: np.ndarray, latents: np.ndarray, voice: np.ndarray) -> np.ndarray:
        """The same -> float32 `[n]` at 22.05 kHz. Loads the vocoder on the first call."""
        self._vocoder = self._vocoder or Vocoder(VOCODER)
        return self._vocoder(self.log_mel(units, latents, voice)).numpy()


def save_sound(path: Path, network: SoundNetwork, card: dict[str, object]) -> None:
    """Write the weights as float16. The same network and card give the same bytes."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata={_CARD: json.dumps(card | {"sound": network.shape}, sort_keys=True)})


def load_sound(path: Path, tokenizer_sha256: str) -> SoundNetwork:
    """Read what `save_sound` wrote.

    Raises:
        UserError: another kind of file, or one fitted on the codes of another tokenizer than the one with this hash.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})[_CARD])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        network = SoundNetwork(**card["sound"])
        network.load_state_dict(tensors)
        fitted_on = card["tokenizer_sha256"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a file that `antiphon fit sound` wrote ({error!r})") from error
    if fitted_on != tokenizer_sha256:
        raise UserError(
            f"{path}: fitted on the codes of a tokenizer with sha256 {fitted_on[:12]}, and these are of {tokenizer_sha256[:12]}"
        )
    return network.eval()
