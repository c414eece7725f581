"""The GE2E speaker encoder: 1.6 s of a voice become 256 numbers, near each other for one speaker.

Wan et al. 2018, "Generalized End-to-End Loss for Speaker Verification" (arXiv 1710.10467), with the weights and the front end
of Resemblyzer 0.1.4: 40 mel bands of power (no logarithm) of 25 ms every 10 ms, three LSTM layers, a projection, ReLU, length 1.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from transforms.mel import mel_power

RATE_HZ = 16000
FRAME = 160
"""Samples from one mel frame to the next: 10 ms."""
WINDOW = 160
"""Mel frames that one embedding reads: 1.6 s."""
DIM = 256
_N_FFT, _N_MELS = 400, 40
_LEAST_DB = -30.0
_LEAST_COVERAGE = 0.75
_BATCH = 64


class SpeakerEncoder:
    """The network, on the GPU where there is one."""

    def __init__(self, path: Path) -> None:
        """Raises RuntimeError where the file's tensors are not the encoder's."""
        self._network = torch.nn.ModuleDict(
            {"lstm": torch.nn.LSTM(_N_MELS, DIM, 3, batch_first=True), "linear": torch.nn.Linear(DIM, DIM)}
        )
        self._network.load_state_dict(load_file(path))
        self._network.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def windows(self, batch: Sequence[np.ndarray], hop: int) -> list[np.ndarray]:
        """B float32 `[n]` at 16 kHz -> B float32 `[W, 256]`, each row of length 1: one for each of `starts(n, hop)`."""
        mels = []
        for samples in batch:
            first = starts(len(samples), hop)
            padded = np.pad(samples, (0, max(0, (first[-1] + WINDOW) * FRAME - len(samples))))
            mel = mel_power(padded, RATE_HZ, _N_FFT, FRAME, _N_MELS)
            mels.append(np.stack([mel[at : at + WINDOW] for at in first]))
        together = np.concatenate(mels)
        parts = [self._run(together[at : at + _BATCH]) for at in range(0, len(together), _BATCH)]
        return np.split(np.concatenate(parts), np.cumsum([len(mel) for mel in mels])[:-1])

    @torch.inference_mode()
    def _run(self, mel: np.ndarray) -> np.ndarray:
        """`[B, 160, 40]` -> `[B, 256]`."""
        given = torch.from_numpy(mel).to(next(self._network.parameters()).device)
        _, (hidden, _) = self._network["lstm"](given)
        raw = torch.relu(self._network["linear"](hidden[-1]))
        embedding: np.ndarray = torch.nn.functional.normalize(raw, dim=1).cpu().numpy()
        return embedding


def starts(n_samples: int, hop: int) -> list[int]:
    """First mel frame of each window, one every `hop` frames. The last may reach past the end by a quarter; there is always one.

    Resemblyzer's rule: only a first window may hold less than three quarters of its 1.6 s.
    """
    frames = -(-(n_samples + 1) // FRAME)
    first = list(range(0, max(1, frames - WINDOW + hop + 1), hop))
    if len(first) > 1 and (n_samples - first[-1] * FRAME) / (WINDOW * FRAME) < _LEAST_COVERAGE:
        first.pop()
    return first


def louder(samples: np.ndarray) -> np.ndarray:
    """float32 `[n]` at -30 dB of full scale or above: the encoder, which reads power, was trained on nothing quieter."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    least = 10 ** (_LEAST_DB / 20)
    return samples if rms >= least or rms == 0 else (samples * (least / rms)).astype(np.float32)


def centre(embeddings: np.ndarray) -> np.ndarray:
    """`[W, 256]` -> `[256]` of length 1: the mean's direction. All zeros stay zeros."""
    mean = embeddings.mean(axis=0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
