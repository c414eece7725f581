"""The embedded codec: log-mel frames through a small residual-quantising network, and HiFi-GAN back to sound."""

import json
from pathlib import Path

import numpy as np
import torch

from schemas.errors import UserError
from transforms.codec import melspec
from transforms.codec.codec import Encoded, check_codebooks, whole_frames
from transforms.codec.hifigan import Vocoder
from transforms.codec.latents import rvq_latents
from transforms.codec.network import MelCodecNetwork
from transforms.weights import locate

VOCODER = "hifigan-universal"

_HEADER = "antiphon"
"""The one metadata key, a JSON object: with several, safetensors does not always write the same bytes."""


class MelCodec:
    """22.05 kHz; a codec frame is a few mel frames, and a prefix of the codebooks is a code of lower rate.

    Frames are coded with their neighbours on both sides, so a codec frame depends on about half a second around it.

    Attributes:
        hop: samples of a codec frame.
    """

    sample_rate_hz = melspec.RATE_HZ

    def __init__(self, model: str, n_codebooks: int | None) -> None:
        """Raises MissingWeights; UserError for a file of another kind or more codebooks than it has."""
        weight = locate(model)
        self._network = load_network(weight.path)
        self.hop = self._network.hop
        available = self._network.sizes
        self.sizes = available[: check_codebooks(n_codebooks, len(available), len(available), model)]
        self.sha256 = weight.sha256
        self.latents = rvq_latents(self._network.levels)
        self._network.to("cuda" if torch.cuda.is_available() else "cpu")
        self._vocoder: Vocoder | None = None

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` at 22.05 kHz -> int64 `[K, ceil(n / hop)]`."""
        if len(samples) == 0:
            return np.zeros((len(self.sizes), 0), dtype=np.int64)
        return self._network.encode(self._log_mel(samples))[: len(self.sizes)].cpu().numpy()

    def encode_latents(self, samples: np.ndarray) -> Encoded:
        """float32 `[n]` at 22.05 kHz -> codes and what they code: latents in the quantiser's space, `[T, 128]` as embedded."""
        if len(samples) == 0:
            return Encoded(self.encode(samples), np.zeros((0, self.latents.dim), dtype=np.float32))
        codes, latents = self._network.encode_both(self._log_mel(samples))
        return Encoded(codes[: len(self.sizes)].cpu().numpy(), latents.cpu().numpy())

    def _log_mel(self, samples: np.ndarray) -> torch.Tensor:
        return melspec.log_mel(torch.from_numpy(whole_frames(samples, self.hop)).to(self._network.mean.device))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int `[k, T]` -> float32 `[hop T]` at 22.05 kHz. Loads the vocoder on its first call: encoding does without."""
        if codes.shape[1] == 0:
            return np.zeros(0, dtype=np.float32)
        self._vocoder = self._vocoder or Vocoder(VOCODER)
        given = torch.from_numpy(codes.astype(np.int64)).to(self._network.mean.device)
        return self._vocoder(self._network.decode(given)).numpy()

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        """float `[T, d]` -> float32 `[hop T]` at 22.05 kHz, past the quantiser."""
        if len(latents) == 0:
            return np.zeros(0, dtype=np.float32)
        self._vocoder = self._vocoder or Vocoder(VOCODER)
        given = torch.from_numpy(latents.astype(np.float32)).to(self._network.mean.device)
        return self._vocoder(self._network.decode_latents(given)).numpy()


def save_network(network: MelCodecNetwork, path: Path, header: dict[str, object]) -> None:
    """Write the weights as float16, and the network's shape beside `header`. The same network gives the same bytes."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata={_HEADER: json.dumps(header | {"shape": network.shape}, sort_keys=True)})


def read_header(path: Path) -> dict[str, object]:
    """What `save_network` wrote beside the weights. Raises UserError for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, object] = json.loads((file.metadata() or {})[_HEADER])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a mel codec that `antiphon fit codec` wrote ({error!r})") from error
    return header


def load_network(path: Path) -> MelCodecNetwork:
    """Read what `save_network` wrote, as float32. Raises UserError for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            shape = json.loads((file.metadata() or {})[_HEADER])["shape"]
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        network = MelCodecNetwork(**shape)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a mel codec that `antiphon fit codec` wrote ({error!r})") from error
    return network.eval()
