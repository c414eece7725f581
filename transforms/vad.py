"""Silero VAD on onnxruntime: the probability of speech, every 32 ms, without the torchaudio that its package asks for."""

from pathlib import Path

import numpy as np
import onnxruntime

from transforms.resample import resample

RATE_HZ = 16000
HOP = 512
"""Samples that one step of the model reads, at 16 kHz."""
HOP_S = HOP / RATE_HZ
_CONTEXT = 64
"""Samples of the step before that it reads again (Silero VAD v5 and later)."""


class SileroVad:
    """The model and a session of one thread: its steps depend on each other, and each is too small to share out."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def probabilities(self, samples: np.ndarray, rate_hz: int) -> np.ndarray:
        """float32 `[n]` -> probabilities `[ceil(seconds / 0.032)]`, the last step filled up with silence."""
        samples = resample(samples, rate_hz, RATE_HZ)
        steps = -(-len(samples) // HOP)
        padded = np.pad(samples, (_CONTEXT, steps * HOP - len(samples)))
        state = np.zeros((2, 1, 128), np.float32)
        rate = np.array(RATE_HZ, np.int64)
        found = np.zeros(steps, np.float32)
        for t in range(steps):
            window = padded[None, t * HOP : t * HOP + _CONTEXT + HOP]
            output, state = self._session.run(None, {"input": window, "state": state, "sr": rate})
            found[t] = output[0, 0]
        return found
