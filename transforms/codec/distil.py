"""What the first codebook is taught: the states of a frozen speech encoder, which say what is spoken more than how it sounds.

After SpeechTokenizer (arXiv 2308.16692) and Mimi (arXiv 2410.00037): a linear map of the first codebook's quantised vector is
drawn to the encoder's state at the same time by cosine distance. The map is thrown away after the fit.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from schemas import Utterance
from transforms.codec import melspec
from transforms.resample import resample
from transforms.units.whisper import WhisperEncoder

_WINDOW_S = 30
"""The longest sound that Whisper's encoder reads; what is longer goes through it in parts."""


class Teacher:
    """A layer of Whisper's encoder, at the codec's frames."""

    def __init__(self, model: str, layer: int) -> None:
        """Raises MissingWeights; ValueError for a layer that the model does not have."""
        self._encoder = WhisperEncoder(model, layer)
        self.sha256 = self._encoder.sha256

    def states(self, utterance: Utterance, n_frames: int, hop: int) -> Tensor:
        """float16 `[n_frames, dim]`: the encoder's state at the centre of each codec frame, between its two nearest frames.

        Args: hop: samples of a codec frame, at 22.05 kHz.
        """
        encoder = self._encoder
        samples = resample(utterance.samples, utterance.rate_hz, encoder.sample_rate_hz)
        # The encoder drops the sound's last part of a frame; with silence after it, it is a frame.
        samples = np.pad(samples, (0, encoder.hop))
        window = _WINDOW_S * encoder.sample_rate_hz
        parts = [samples[start : start + window] for start in range(0, len(samples), window)]
        states = np.concatenate(encoder.features(parts))
        # Frame i of Whisper's encoder is centred on sample i * its hop, a codec frame on the middle of its mel frames.
        centres_s = (np.arange(n_frames) + 0.5) * hop / melspec.RATE_HZ
        return torch.from_numpy(between(states, centres_s * encoder.sample_rate_hz / encoder.hop).astype(np.float16))


def between(frames: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`[T, d]` read at fractional places `[n]`, linearly between the two nearest; before the first and after the last, those."""
    at = np.clip(at, 0, len(frames) - 1)
    left = np.minimum(at.astype(np.int64), max(len(frames) - 2, 0))
    right = np.minimum(left + 1, len(frames) - 1)
    share = (at - left)[:, None].astype(np.float32)
    return frames[left] * (1 - share) + frames[right] * share


class ContentHead(nn.Module):
    """The linear map from the first codebook's vectors to the teacher's states, each dimension of zero mean and unit variance."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, states: Tensor) -> None:
        """Args: states: float16 `[N, dim]`, all of the data."""
        super().__init__()
        self.map = nn.Linear(channels, states.shape[1])
        # float16 sums overflow.
        self.register_buffer("mean", states.mean(0, dtype=torch.float32))
        self.register_buffer("deviation", (states[:: max(1, len(states) // 100_000)].float().std(0) + 1e-5))

    def distance(self, first: Tensor, states: Tensor) -> Tensor:
        """Mean cosine distance of the map of `[..., C]` from `[..., dim]`, a scalar: 0 is equal, 1 knows nothing."""
        return (1 - F.cosine_similarity(self.map(first), (states - self.mean) / self.deviation, dim=-1)).mean()
