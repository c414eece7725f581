"""What a codec must offer."""

from typing import NamedTuple, Protocol

import numpy as np

from schemas import Latents
from schemas.errors import UserError

BACKENDS = {
    "mel": "transforms.codec.mel:MelCodec",
    "lyra": "transforms.codec.lyra:LyraCodec",
    "transformers": "transforms.codec.transformers_codec:TransformersCodec",
    "snac": "transforms.codec.snac:SnacCodec",
    "speechtokenizer": "transforms.codec.speechtokenizer:SpeechTokenizerCodec",
    "vae": "transforms.codec.vae:VaeCodec",
}
"""Each is made from (model, n_codebooks): a name or path for `transforms.weights.locate`, and how many to keep, or None."""


class CodecModel(Protocol):
    """A residual codec, both ways.

    Attributes:
        sample_rate_hz: rate of what it reads and gives. hop: samples in a frame.
        sizes: size of each codebook that is kept. sha256: of all weights that the codes depend on.

    A codec whose first codebooks carry content has `semantic`, their number; one of several rates has `levels`, the rows of each.
    """

    sample_rate_hz: int
    hop: int
    sizes: tuple[int, ...]
    sha256: str

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` at `sample_rate_hz` -> integers `[K, ceil(n / hop)]`, undelayed."""
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Integers `[k, T]` of the first k books, undelayed -> float32 `[T * hop]` at `sample_rate_hz`.

        One of several rates takes all of its rows.
        """
        ...


class Encoded(NamedTuple):
    """What a codec with continuous latents makes of sound.

    Attributes:
        codes: integers `[K, T]`, the same as `encode` gives; None where there are no codebooks.
        latents: float32 `[T, d]`. variance: float32 `[T, d]`, of a VAE's posterior; None where the model does not give it.
    """

    codes: np.ndarray | None
    latents: np.ndarray
    variance: np.ndarray | None = None


class ContinuousCodec(CodecModel, Protocol):
    """A codec whose continuous latents can be had, and turned back into sound."""

    latents: Latents

    def encode_latents(self, samples: np.ndarray) -> Encoded:
        """float32 `[n]` at `sample_rate_hz` -> codes and latents of its ceil(n / hop) frames, in one pass."""
        ...

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        """float `[T, d]` -> float32 `[T * hop]` at `sample_rate_hz`. Nothing is quantised."""
        ...

    # One that hears an utterance as a whole first has `prepare`, `[n]` -> `[n]`, which the stage calls before all else.


def whole_frames(samples: np.ndarray, hop: int) -> np.ndarray:
    """Samples `[n]`, zeros behind them up to a whole frame: `[ceil(n / hop) * hop]`."""
    return np.pad(samples, (0, -len(samples) % hop))


def cut(sound: np.ndarray, n_samples: int) -> np.ndarray:
    """The first `n_samples` of a decoder's sound `[n]`, filled up with zeros: strided convolutions give some more or less."""
    return np.pad(sound, (0, max(0, n_samples - len(sound))))[:n_samples]


def check_codebooks(wanted: int | None, default: int, available: int, model: str) -> int:
    """How many codebooks to keep. Raises UserError for a number that the codec does not have."""
    count = default if wanted is None else wanted
    if not 1 <= count <= available:
        raise UserError(f"codec.n_codebooks is {count}; {model} has 1 to {available}")
    return count
