"""Text to speech: the stage that stands where `decode` stands for recorded speech."""

import hashlib
from typing import Literal, Protocol

import numpy as np

from schemas import Block, Piece, Reason, Rejection
from transforms.options import Options
from transforms.registry import load
from transforms.resample import resample
from transforms.stage import Stage

BACKENDS = {
    "espeak": "transforms.dialogue.espeak:EspeakVoice",
    "kokoro": "transforms.dialogue.kokoro:KokoroVoice",
    "coqui": "transforms.dialogue.coqui:CoquiVoice",
}


class SpeakOptions(Options):
    """Which TTS speaks, and with which voice for whom."""

    backend: Literal["espeak", "kokoro", "coqui"] = "espeak"
    """"espeak" (embedded), "kokoro" (`antiphon pull kokoro-82m`), or "coqui" (`pip install antiphon[tts]`)."""
    model: str = ""
    """Weights: a name or a path. Kokoro defaults to kokoro-82m; coqui needs a folder with config.json and model.pth."""
    voices: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)
    """Role -> voice, such as {assistant: af_heart}; each backend has its own for the roles left out."""


class Voice(Protocol):
    """A backend: constructed from its options, which loads its model."""

    defaults: dict[str, str]
    """Role -> voice."""

    def say(self, text: str, voice: str, seed: int) -> tuple[np.ndarray, int]:
        """Text -> float32 `[n]` and its rate in Hz; the same for the same text, voice and seed."""
        ...


class Speak(Stage):
    """Fills each piece's samples with its spoken text. What cannot be spoken is rejected as failed, with 0 s."""

    name = "speak"

    def __init__(self, options: SpeakOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights, or UserError where an optional package is not installed."""
        self._voice: Voice = load(BACKENDS, self._options.backend, "dialogues.speak.backend")(self._options)

    def weights(self) -> dict[str, str]:
        from transforms.weights import locate

        name = self._options.model or ("kokoro-82m" if self._options.backend == "kokoro" else "")
        return {name: locate(name).sha256} if name else {}

    def __call__(self, block: Block) -> Block:
        for piece in block.pieces:
            try:
                self._speak(block, piece)
            except Exception as error:  # one turn, not the run
                detail = f"{type(error).__name__}: {error}"[:500]
                block.rejections.append(Rejection(piece.source, 0, 0.0, 0.0, self.name, Reason.FAILED, detail))
        return block

    def _speak(self, block: Block, piece: Piece) -> None:
        text, role = str(piece.given.get("text") or ""), str(piece.given.get("role") or "")
        if not text:
            raise ValueError("nothing to say: the turn is empty once it is made speakable")
        voice = (
            self._options.voices.get(role)
            or self._voice.defaults.get(role)
            or next(iter(self._voice.defaults.values()))
        )
        seed = int(hashlib.sha256(f"{piece.source}\n{text}".encode()).hexdigest()[:8], 16)
        samples, rate_hz = self._voice.say(text, voice, seed)
        made = resample(np.asarray(samples, np.float32), rate_hz, block.rate_hz)
        if not len(made) or not np.isfinite(made).all():
            raise ValueError(f"the voice gave {len(made)} samples, not all of them numbers")
        piece.given = piece.given | {"speaker": f"{self._options.backend}/{voice}"}
        piece.samples = {0: made}
        block.samples_in += len(made)
