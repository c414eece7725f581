"""What a speech encoder must offer to be cut into units."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import nn

BACKENDS = {
    "whisper": "transforms.units.whisper:WhisperEncoder",
    "transformers": "transforms.units.transformers_ssl:TransformersEncoder",
}
"""Each is made from (model, layer): a name or path for `transforms.weights.locate`, and a 1-based transformer layer; the
transformers one also from `normalize`, which overrides what the checkpoint says of its input."""


class Encoder(Protocol):
    """A frozen encoder, up to one layer.

    Attributes:
        model: its name or path, as asked for. layer: 1-based.
        sha256: of its parameters (`parameters_sha256`).
        sample_rate_hz: rate of what it reads.
        hop, trim: its frame rule, in samples: `n` of them give `max(0, (n - trim) // hop)` frames.
        dim: width of a frame.
        normalized: whether waveforms are brought to zero mean and unit variance first; None where the model has other input.
    """

    model: str
    layer: int
    sha256: str
    sample_rate_hz: int
    hop: int
    trim: int
    dim: int
    normalized: bool | None

    def features(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32 `[n]` each, at `sample_rate_hz` -> float32 `[T, dim]` each. No result depends on the others of the batch."""
        ...


def parameters_sha256(module: "nn.Module") -> str:
    """SHA-256 over names, shapes and float32 values of all parameters, in the order of their names.

    Not of the file, since the same weights come in files of several formats, which are all as good.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
