"""Coqui TTS (the maintained fork, coqui-tts), an optional extra."""

import sys
import types

import numpy as np

from schemas.errors import UserError
from transforms.dialogue.speak import SpeakOptions
from transforms.weights import locate


class CoquiVoice:
    """Any model that `TTS.api.TTS` loads from a folder with `config.json` and `model.pth`. Voices are its speakers' names."""

    defaults = {"user": "", "assistant": ""}  # noqa: RUF012

    def __init__(self, options: SpeakOptions) -> None:
        """Raises UserError where coqui-tts is not installed or no model is named, MissingWeights where it is not there."""
        _without_torchaudios_extension()
        try:
            from TTS.api import TTS
        except ImportError as error:
            raise UserError(f"the coqui voice needs coqui-tts: pip install 'antiphon[tts]' ({error})") from None
        if not options.model:
            raise UserError("dialogues.speak.model: name the folder of a coqui model (config.json and model.pth)")
        folder = locate(options.model).path
        self._tts = TTS(
            model_path=str(folder / "model.pth"), config_path=str(folder / "config.json"), progress_bar=False
        )

    def say(self, text: str, voice: str, seed: int) -> tuple[np.ndarray, int]:
        """See `Voice.say`. VITS and kin sample: the seed decides."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            samples = self._tts.tts(text, speaker=voice or None)
        return np.asarray(samples, np.float32), int(self._tts.synthesizer.output_sample_rate)


def _without_torchaudios_extension() -> None:
    """Let torchaudio import without its compiled part, which coqui-tts does not use and a CPU torch cannot load.

    Without this, a torchaudio built for CUDA raises OSError on import, in transformers too.
    """
    if "torchaudio" in sys.modules or "torchaudio._extension" in sys.modules:
        return
    stub = types.ModuleType("torchaudio._extension")
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = stub._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined]
    stub._check_cuda_version = lambda: None  # type: ignore[attr-defined]
    stub.fail_if_no_align = lambda function: function  # type: ignore[attr-defined]
    sys.modules["torchaudio._extension"] = stub
