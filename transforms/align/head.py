"""Small networks on Whisper's encoder: which third of which English phone, or which letter, each 10 ms of sound is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.errors import UserError
from transforms.units.encoder import parameters_sha256
from transforms.whisper_model import load_whisper

_ARPABET = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
PHONES = _ARPABET.split()
STATES = 3
"""Classes of a phone: its beginning, middle and end, as the states of an HMM."""
N_CLASSES = 1 + STATES * len(PHONES)
"""Class 0 is silence and noise; state i of phone p is 1 + 3 p + i."""
FRAME = 160
"""Samples between frames at 16 kHz. Frame t is centred on sample 160 t, so it begins at 10 t - 5 ms."""
MEL_BINS = 80

_HEADER = "antiphon"
_WINDOW, _CONTEXT = 20 * 50, 50
"""Encoder frames (20 ms) that are kept of one window, and how many more it hears on either side."""


class WrongHead(UserError):
    """The file is no head of the kind that is asked for, or it was fitted on another encoder."""


class Block(nn.Module):
    """A dilated convolution and a linear layer, with a residual path: `[B, T, w]` -> `[B, T, w]`."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = F.gelu(self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2))
        return x + self.linear(hidden)


class Network(nn.Module):
    """Log-mel at 100 Hz for when, the encoder's layer at 50 Hz for what: logits at 100 Hz."""

    def __init__(self, dim: int, width: int, n_classes: int = N_CLASSES) -> None:
        super().__init__()
        self.width = width
        self.mel = nn.Conv1d(MEL_BINS, width, 5, padding=2)
        self.norm = nn.LayerNorm(dim)
        self.encoded = nn.Linear(dim, 2 * width)
        self.blocks = nn.ModuleList([Block(width, dilation) for dilation in (1, 2, 1)])
        self.last = nn.LayerNorm(width)
        self.out = nn.Linear(width, n_classes)

    def forward(self, mel: Tensor, encoded: Tensor) -> Tensor:
        """`[B, 2T, 80]` and `[B, T, dim]` -> `[B, 2T, n_classes]`."""
        batch, frames, _ = encoded.shape
        # Each encoder frame gives two frames, the layer telling them apart.
        x = self.mel(mel.transpose(1, 2)).transpose(1, 2)
        x = x + self.encoded(self.norm(encoded)).view(batch, 2 * frames, self.width)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.out(self.last(x))
        return logits


class Ears:
    """What the network hears: Whisper's log-mel, and one layer of its encoder on the sound's own length."""

    def __init__(self, model: str, layer: int) -> None:
        """Raises MissingWeights where the Whisper checkpoint is not on this machine."""
        self._encoder = load_whisper(model).encoder
        self._layer = layer
        self.sha256 = parameters_sha256(self._encoder)
        self.dim = self._encoder.positional_embedding.shape[1]

    @torch.inference_mode()
    def __call__(self, samples: np.ndarray) -> tuple[Tensor, Tensor]:
        """float32 `[n]` at 16 kHz, at most 30 s -> log-mel `[2T, 80]`, layer `[T, dim]`, T = n // 320."""
        from whisper.audio import log_mel_spectrogram

        encoder, n_frames = self._encoder, len(samples) // (2 * FRAME)
        whole = torch.from_numpy(np.ascontiguousarray(samples[: n_frames * 2 * FRAME], np.float32))
        mel = log_mel_spectrogram(whole, MEL_BINS, device=encoder.conv1.weight.device)
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel[None])))).transpose(1, 2)
        hidden = hidden + encoder.positional_embedding[:n_frames]
        for block in encoder.blocks[: self._layer]:
            hidden = block(hidden)
        return mel.T.float().cpu(), hidden[0].float().cpu()


class Head:
    """A fitted network with the encoder that it belongs to.

    Attributes:
        prior: float32 `[C]`, how often each class occurs where it was fitted.
        about: the file's header: data, licence, options and figures; `kind` where it is not "phones".
    """

    def __init__(self, network: Network, prior: np.ndarray, about: dict[str, Any], ears: Ears) -> None:
        self.network, self.prior, self.about, self.ears = network.eval(), prior, about, ears

    @classmethod
    def load(cls, path: Path, encoder: str, kind: str = "phones") -> "Head":
        """Read what `save` wrote, to be used on the encoder of that Whisper checkpoint.

        Raises WrongHead for any other file, for another kind of head, and for one that was fitted on another encoder.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})[_HEADER])
                tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            prior = tensors.pop("prior").numpy()
            network = Network(about["dim"], about["width"], len(prior))
            network.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise WrongHead(f"{path}: not a head that `antiphon fit` wrote ({error!r})") from error
        if about.get("kind", "phones") != kind:
            raise WrongHead(f"{path}: a head of {about.get('kind', 'phones')}, and one of {kind} is asked for")
        ears = Ears(encoder, about["layer"])
        if ears.sha256 != about["encoder_sha256"]:
            raise WrongHead(
                f"{path}: fitted on the encoder of {about['encoder']} (parameters {about['encoder_sha256'][:12]}), but the config "
                f"asks for {encoder} (parameters {ears.sha256[:12]}); set align.encoder to what it was fitted on"
            )
        return cls(network, prior, about, ears)

    def save(self, path: Path) -> None:
        """Write it as float16. The same head gives the same bytes."""
        from safetensors.torch import save_file

        tensors = {key: value.half().contiguous() for key, value in self.network.state_dict().items()}
        tensors["prior"] = torch.from_numpy(self.prior).half()
        save_file(tensors, path, metadata={_HEADER: json.dumps(self.about, sort_keys=True)})

    @torch.inference_mode()
    def log_posteriors(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` at 16 kHz, of any length -> float32 `[2 (n // 320), C]`.

        Beyond 22 s in windows of 20 s that hear a second more on either side, so memory does not grow with the length.
        """
        n_frames = len(samples) // (2 * FRAME)
        found = [np.zeros((0, len(self.prior)), np.float32)]
        for start, end, low, high in windows(n_frames):
            mel, encoded = self.ears(samples[low * 2 * FRAME : high * 2 * FRAME])
            logits = self.network(mel[None], encoded[None])[0]
            found.append(logits.log_softmax(-1).numpy()[2 * (start - low) : 2 * (end - low)])
        return np.concatenate(found)


def windows(n_frames: int) -> Sequence[tuple[int, int, int, int]]:
    """(start, end, low, high): frames start..end are taken from the window low..high; the pairs start..end tile 0..n_frames."""
    if n_frames == 0:
        return []
    if n_frames <= _WINDOW + 2 * _CONTEXT:
        return [(0, n_frames, 0, n_frames)]
    return [
        (start, min(start + _WINDOW, n_frames), max(0, start - _CONTEXT), min(start + _WINDOW + _CONTEXT, n_frames))
        for start in range(0, n_frames, _WINDOW)
    ]
