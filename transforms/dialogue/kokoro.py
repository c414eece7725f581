"""Kokoro-82M on onnxruntime, from espeak-ng's phonemes."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

from schemas.errors import UserError
from transforms.dialogue.speak import SpeakOptions
from transforms.espeak import phonemes
from transforms.weights import locate

RATE_HZ = 24000
_MAX_TOKENS = 510
"""Kokoro's context of 512, less the padding at both ends."""
# Kokoro writes diphthongs and affricates as one symbol each. Order matters: longer first.
_SYMBOLS = [("tʃ", "ʧ"), ("dʒ", "ʤ"), ("eɪ", "A"), ("aɪ", "I"), ("aʊ", "W"), ("oʊ", "O"), ("əʊ", "O"), ("ɔɪ", "Y"),
            ("ɜːɹ", "ɜɹ"), ("ɚ", "əɹ"), ("əl", "ᵊl"), ("n̩", "ᵊn"), ("r", "ɹ"), ("ɐ", "ə"), ("ː", "")]  # fmt: skip


class KokoroVoice:
    """Voices are the `.bin` files of the weights: af_heart, am_michael, bf_emma ..."""

    defaults = {"user": "am_michael", "assistant": "af_heart"}  # noqa: RUF012

    def __init__(self, options: SpeakOptions, threads: int = 0) -> None:
        """threads: of one sentence; 0 for as many as there are cores. Raises MissingWeights where Kokoro is not on this machine."""
        self._folder: Path = locate(options.model or "kokoro-82m").path
        self._ids: dict[str, int] = json.loads((self._folder / "tokenizer.json").read_text())["model"]["vocab"]
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(self._folder / "kokoro-quantized.onnx"), settings, providers=["CPUExecutionProvider"]
        )

    def say(self, text: str, voice: str, seed: int, speed: float = 1.0) -> tuple[np.ndarray, int]:
        """See `Voice.say`; nothing here is random. speed: relative to the voice's own. Raises UserError for an unknown voice."""
        path = self._folder / "voices" / f"{voice}.bin"
        if not path.exists():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.bin")))
            raise UserError(f"Kokoro has no voice {voice!r}; there are {there}")
        styles = np.fromfile(path, np.float32).reshape(-1, 1, 256)
        parts = [self._clause(ids, styles, speed) for ids in self._tokens(text, british=voice.startswith("b"))]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32), RATE_HZ

    def _tokens(self, text: str, british: bool) -> list[list[int]]:
        """Token ids, at most `_MAX_TOKENS` a call of the model; clauses are joined by a comma, the pause between them."""
        (clauses,) = phonemes([text], "en-gb" if british else "en-us")
        calls: list[list[int]] = []
        for clause in clauses:
            for ipa, symbol in _SYMBOLS:
                clause = clause.replace(ipa, symbol)
            ids = [self._ids[c] for c in f"{clause}, " if c in self._ids][:_MAX_TOKENS]
            if calls and len(calls[-1]) + len(ids) <= _MAX_TOKENS:
                calls[-1] += ids
            else:
                calls.append(ids)
        return calls

    def _clause(self, ids: list[int], styles: np.ndarray, speed: float) -> np.ndarray:
        inputs = {
            "input_ids": np.array([[0, *ids, 0]], np.int64),
            # A voice holds one style for each length of input.
            "style": styles[min(len(ids), len(styles) - 1)],
            "speed": np.array([speed], np.float32),
        }
        samples: np.ndarray = self._session.run(None, inputs)[0].reshape(-1)
        return samples
