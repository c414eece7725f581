"""One Whisper a process: transcription, units and TASTE share its weights."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from transforms.weights import locate

if TYPE_CHECKING:
    from whisper.model import Whisper


def load_whisper(name: str) -> "Whisper":
    """The model of a checkpoint in openai-whisper's own format, by name or path, on the GPU where there is one.

    Raises MissingWeights where it is not on this machine: nothing is downloaded here.
    """
    return _load(locate(name).path)


@cache
def _load(path: Path) -> "Whisper":
    import torch
    import whisper

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Given a path, openai-whisper loads with `weights_only=True` and never reaches for the network.
    model = whisper.load_model(str(path), device=device)
    return model.eval()
