"""S3 tokenizers of CosyVoice (arXiv 2407.05407, 2412.10117): units straight out of a recogniser's encoder, without k-means.

The published files are ONNX graphs, which onnxruntime runs as CosyVoice does: Whisper's log-mel of 128 bands and its length in,
tokens out. So nothing is installed for it; the package s3tokenizer reads the same files, and imports torchaudio and onnx.

    speech_tokenizer_v1.onnx  of CosyVoice-300M, 50 Hz, and of CosyVoice-300M-25Hz: 4,096 units
    speech_tokenizer_v2.onnx  of CosyVoice2-0.5B, 25 Hz: 6,561 units (three levels in each of eight dimensions)
    speech_tokenizer_v3.onnx  of Fun-CosyVoice3-0.5B, the same shape
"""

import hashlib
from typing import Any

import numpy as np

from schemas import Tokenizer
from schemas.errors import UserError
from transforms.weights import locate

RATE_HZ, MEL_HOP, N_MELS = 16000, 160, 128
SIZES = {"v1": 4096, "v2": 6561, "v3": 6561}
"""Units of each version, which the graph does not say: it goes by the file's name, as in the package."""
PUBLISHED = (
    ("CosyVoice-300M", "speech_tokenizer_v1.onnx", 4096, 50.0),
    ("CosyVoice-300M-25Hz", "speech_tokenizer_v1.onnx", 4096, 25.0),
    ("CosyVoice2-0.5B", "speech_tokenizer_v2.onnx", 6561, 25.0),
)
"""Of which model, the file's name, units, frames a second."""
WINDOW, OVERLAP = 3000, 400
"""Mel frames that the encoder hears at a time (30 s, what it was trained on), and how many two windows share, of which each gives
one half: as in the package, but for what that loses where its last window ends within the one before."""


class S3Tokenizer:
    """Waveforms to units. `card`: `max(0, (n + hop - 160) // hop)` frames of n samples, a mel frame that is begun counting."""

    def __init__(self, model: str) -> None:
        """Raises MissingWeights; UserError for a file that is none of these graphs."""
        import onnxruntime

        weight = locate(model)
        version = next((v for v in SIZES if v in weight.path.stem), None)
        if version is None:
            raise UserError(f"{weight.path}: its name does not say which version it is ({', '.join(SIZES)})")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            self._session: Any = onnxruntime.InferenceSession(str(weight.path), options, providers=providers)
            self._mel, self._length = (given.name for given in self._session.get_inputs())
            self._stride = 400 // len(self._run(np.zeros((N_MELS, 400), dtype=np.float32)))
        except Exception as error:  # onnxruntime's own classes derive from Exception alone
            raise UserError(f"{weight.path}: not an S3 tokenizer's ONNX file ({error})") from error
        self.sha256, self.size = weight.sha256, SIZES[version]
        hop = MEL_HOP * self._stride
        revision = hashlib.sha256(repr(("s3", weight.sha256, hop, self.size, WINDOW, OVERLAP)).encode()).hexdigest()
        self.card = Tokenizer(
            "units", weight.path.stem, revision, RATE_HZ, hop, (self.size,), "floor", trim=MEL_HOP - hop
        )

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` at 16 kHz -> int64 `[T]`, one unit a frame.

        Raises ValueError for a unit that the version does not have.
        """
        mel = log_mel(samples)
        units = self._in_windows(mel, WINDOW, OVERLAP) if mel.shape[1] else np.zeros(0, dtype=np.int64)
        if len(units) and not 0 <= units.min() <= units.max() < self.size:
            raise ValueError(f"{self.card.name}: units from {units.min()} to {units.max()}; there are {self.size}")
        return units

    def _in_windows(self, mel: np.ndarray, window: int, overlap: int) -> np.ndarray:
        """Units of mel `[128, T]`, heard in windows of so many frames; where two overlap, each gives its half."""
        parts, n_frames = [], mel.shape[1]
        for start in range(0, n_frames, window - overlap):
            last = start + window >= n_frames
            units = self._run(mel[:, start : start + window])
            begin = overlap // 2 // self._stride if start else 0
            parts.append(units[begin:] if last else units[begin : (window - overlap // 2) // self._stride])
            if last:
                break
        return np.concatenate(parts)

    def _run(self, mel: np.ndarray) -> np.ndarray:
        given = {self._mel: mel[None], self._length: np.array([mel.shape[1]], dtype=np.int32)}
        return np.asarray(self._session.run(None, given)[0]).reshape(-1).astype(np.int64)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """float32 `[n]` at 16 kHz -> float32 `[128, n // 160]`, as Whisper has it."""
    import torch
    from whisper.audio import log_mel_spectrogram

    n_frames = len(samples) // MEL_HOP
    if n_frames == 0:
        return np.zeros((N_MELS, 0), dtype=np.float32)
    # A window's length at least, for what is mirrored at the ends.
    padded = np.pad(samples.astype(np.float32, copy=False), (0, max(0, 400 - len(samples))))
    mel: np.ndarray = log_mel_spectrogram(torch.from_numpy(padded), n_mels=N_MELS).numpy()[:, :n_frames]
    return np.ascontiguousarray(mel)
