"""The universal HiFi-GAN generator: log-mel frames -> sound."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.errors import UserError
from transforms.codec import melspec
from transforms.weights import locate

_OURS = {
    "rate_hz": melspec.RATE_HZ,
    "n_fft": melspec.N_FFT,
    "win_length": melspec.N_FFT,
    "hop_length": melspec.HOP,
    "n_mels": melspec.N_MELS,
    "fmin_hz": 0.0,
    "fmax_hz": melspec.FMAX_HZ,
    "mel_scale": "slaney",
}


class Vocoder:
    """A HiFi-GAN V1 generator (arXiv 2010.05646) in transformers' format, weight norm folded in.

    Attributes:
        sha256: of its weights.
    """

    def __init__(self, name: str) -> None:
        """Raises MissingWeights, or UserError where it was trained on another spectrogram than `melspec`'s."""
        from transformers import SpeechT5HifiGan
        from transformers.utils import logging

        logging.disable_progress_bar()
        weight = locate(name)
        check_mel(weight.path)
        self.sha256 = weight.sha256
        self._generator: Any = SpeechT5HifiGan.from_pretrained(weight.path, local_files_only=True).eval()
        self._generator.to("cuda" if torch.cuda.is_available() else "cpu")

    @torch.inference_mode()
    def __call__(self, log_mel: Tensor) -> Tensor:
        """float32 `[80, M]` -> float32 `[256 M]` at 22.05 kHz, in -1..1."""
        return self._generator(log_mel.T.to(self._generator.device)).cpu()


def check_mel(folder: Path) -> None:
    """Raise UserError unless the folder's mel.json describes the spectrogram of `melspec`."""
    path = folder / "mel.json"
    if not path.is_file():
        raise UserError(
            f"{path}: missing; it must say which spectrogram the generator reads. Run `antiphon pull hifigan-universal`"
        )
    theirs = json.loads(path.read_text(encoding="utf-8"))
    wrong = [f"{key} {theirs.get(key)} instead of {value}" for key, value in _OURS.items() if theirs.get(key) != value]
    if wrong:
        raise UserError(f"{path}: the generator reads another spectrogram than the codec makes: {', '.join(wrong)}")
