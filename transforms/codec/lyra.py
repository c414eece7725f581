"""Lyra v2: Google's SoundStream codec, three TFLite models that run frame by frame and keep state."""

from typing import Any

import numpy as np

from transforms.codec.codec import check_codebooks, whole_frames
from transforms.weights import locate

_N_CODEBOOKS, _SIZE = 46, 16
_DEFAULT_CODEBOOKS = 16
"""3.2 kbit/s; 30 codebooks are 6 and all 46 are 9.2 kbit/s."""
_UNUSED = -1
"""Index that the quantizer takes for a codebook that was not sent."""


class LyraCodec:
    """16 kHz, 50 frames a second, up to 46 residual codebooks of 16 entries.

    The encoder and the decoder carry state from frame to frame in resource variables, which `reset_all_variables` leaves as
    they are: the second utterance would get other codes than in a fresh process. So every utterance gets fresh interpreters.
    """

    sample_rate_hz = 16000
    hop = 320

    def __init__(self, model: str, n_codebooks: int | None) -> None:
        """Raises MissingWeights, or UserError for a number of codebooks outside 1 to 46."""
        count = check_codebooks(n_codebooks, _DEFAULT_CODEBOOKS, _N_CODEBOOKS, model)
        weight = locate(model)
        self.sizes = (_SIZE,) * count
        self.sha256 = weight.sha256
        self._encoder = (weight.path / "soundstream_encoder.tflite").read_bytes()
        self._decoder = (weight.path / "lyragan.tflite").read_bytes()
        # Stateless, so one serves for all.
        quantizer = _interpreter((weight.path / "quantizer.tflite").read_bytes())
        self._quantize = quantizer.get_signature_runner("encode")
        self._dequantize = quantizer.get_signature_runner("decode")

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` at 16 kHz -> int32 `[K, ceil(n / 320)]`."""
        n_frames = -(-len(samples) // self.hop)
        frames = whole_frames(samples, self.hop).astype(np.float32).reshape(n_frames, self.hop)
        encode = _interpreter(self._encoder).get_signature_runner()
        count = np.array(len(self.sizes), dtype=np.int32)
        codes = np.zeros((len(self.sizes), n_frames), dtype=np.int32)
        for t, frame in enumerate(frames):
            features = encode(input_audio=frame[None])["output_0"]
            codes[:, t] = self._quantize(input_frames=features, num_quantizers=count)["output_0"][
                : len(self.sizes), 0, 0
            ]
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int `[k, T]` -> float32 `[320 T]` at 16 kHz."""
        n_codebooks, n_frames = codes.shape
        indices = np.full((_N_CODEBOOKS, 1, 1), _UNUSED, dtype=np.int32)
        decode = _interpreter(self._decoder).get_signature_runner()
        samples = np.zeros((n_frames, self.hop), dtype=np.float32)
        for t in range(n_frames):
            indices[:n_codebooks, 0, 0] = codes[:, t]
            features = self._dequantize(encoding_indices=indices)["output_0"]
            samples[t] = decode(input_audio=features)["output_0"][0]
        return samples.reshape(-1)


def _interpreter(model: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    # One thread: a frame is too little work to share, and the models of other stages want the cores.
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter
