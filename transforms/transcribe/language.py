"""How likely audio is in the language that was given for it, by Whisper's language token."""

from collections.abc import Sequence

import numpy as np
import torch
from whisper.audio import N_FRAMES, log_mel_spectrogram, pad_or_trim
from whisper.decoding import detect_language

from schemas.errors import UserError
from transforms.whisper_model import load_whisper

_RATE_HZ = 16000


class LanguageJudge:
    """A multilingual Whisper checkpoint: its encoder, and one step of its decoder."""

    def __init__(self, model: str) -> None:
        """Raises MissingWeights where the checkpoint is not on this machine, and UserError where it knows English only."""
        self._model = load_whisper(model)
        if not self._model.is_multilingual:
            raise UserError(f"transcribe.check_language: {model} knows English only; name a multilingual Whisper")

    def probabilities(self, batch: Sequence[np.ndarray], languages: Sequence[str]) -> list[float | None]:
        """How likely each of B languages is in its float32 `[n]` at 16 kHz, of which 30 s are heard; None where it is not known."""
        return [sure.get(language) for sure, language in zip(self.heard(batch), languages, strict=True)]

    @torch.inference_mode()
    def heard(self, batch: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """The probability of every language that the model knows, for each item."""
        mels = [
            log_mel_spectrogram(
                torch.from_numpy(x), self._model.dims.n_mels, padding=30 * _RATE_HZ, device=self._model.device
            )
            for x in batch
        ]
        found: list[dict[str, float]]
        _, found = detect_language(self._model, torch.stack([pad_or_trim(mel, N_FRAMES) for mel in mels]))
        return found
