"""What made a token stream: enough to refuse tokens that another tokenizer made."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Latents:
    """What a codec's continuous latents are: `codec_latents`, one vector a frame, stored as the codec gives it.

    Attributes:
        kind: "rvq", what a codec quantises, before it does; "vae", the mean of an autoencoder's posterior.
        mean, deviation: `[d]`, by which a latent is normalised: `(latent - mean) / deviation`. Of the weights, not of a corpus.
        noise: of a VAE whose posterior has one deviation everywhere, that deviation; else 0.
        variance: whether the posterior's variance is stored too, in `codec_latent_variance`.
    """

    kind: Literal["rvq", "vae"]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    noise: float = 0.0
    variance: bool = False

    @property
    def dim(self) -> int:
        return len(self.mean)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Latents":
        return cls(**(fields | {name: tuple(fields[name]) for name in ("mean", "deviation")}))


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The card of one tokenizer, written into every shard that holds its tokens.

    Attributes:
        kind: the column group that it fills: "units", "codec" or "taste".
        name: its name in the config, such as "whisper-tiny-l4-km500".
        revision: sha256 over its weights and settings; two cards with the same revision give the same tokens.
        sample_rate_hz: rate of the audio it reads.
        hop: samples at `sample_rate_hz` for each frame; 0 where tokens follow words instead of time.
        sizes: size of each codebook, in order; one entry for units, none for a codec of continuous latents alone.
        frames: "ceil" (codecs pad the tail), "floor" (SSL encoders drop it) or "word" (one frame for each word).
        trim: samples that a "floor" encoder needs beyond whole hops before it gives its first frame.
        semantic: how many of the first codebooks were trained to carry what is said (1 for Mimi); the others carry the sound.
        levels: of a codec whose codebooks run at several rates, how many rows of a frame each codebook has ((1, 2, 4) for SNAC,
            slowest first, in the order of time); empty where each row is a codebook of its own.
        latents: of a codec whose continuous latents are stored too, what they are; else None. The codes do not depend on it.
    """

    kind: Literal["units", "codec", "taste"]
    name: str
    revision: str
    sample_rate_hz: int
    hop: int
    sizes: tuple[int, ...]
    frames: Literal["ceil", "floor", "word"]
    trim: int = 0
    semantic: int = 0
    levels: tuple[int, ...] = ()
    latents: Latents | None = None

    @property
    def rate_hz(self) -> float:
        """Frames a second; 0.0 where tokens follow words."""
        return self.sample_rate_hz / self.hop if self.hop else 0.0

    @property
    def bits_per_s(self) -> float:
        """Raw bit rate: rate times the sum of log2 of the codebook sizes; 0.0 where tokens follow words."""
        return self.rate_hz * sum(math.log2(size) for size in self.sizes)

    @property
    def latent_bytes_per_s(self) -> float:
        """Of the stored latents, uncompressed; 0.0 where there are none."""
        return self.rate_hz * self.latents.dim * 2 * (1 + self.latents.variance) if self.latents else 0.0

    def n_frames(self, n_samples: int) -> int:
        """Frames that `n_samples` samples at `sample_rate_hz` give. Raises ValueError for a word-aligned tokenizer."""
        if self.frames == "word":
            raise ValueError(f"{self.name} gives one frame for each word: its frame count does not follow from samples")
        if self.frames == "ceil":
            return -(-n_samples // self.hop)
        return max(0, (n_samples - self.trim) // self.hop)

    def as_json(self) -> dict[str, Any]:
        """JSON-able. What only some codecs have stands only in their cards, so that other shards keep their bytes."""
        fields = asdict(self) | {"sizes": list(self.sizes), "levels": list(self.levels)}
        return {name: value for name, value in fields.items() if value or name not in ("semantic", "levels", "latents")}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Tokenizer":
        latents = Latents.from_json(fields["latents"]) if fields.get("latents") else None
        own = {name: tuple(fields.get(name, ())) for name in ("sizes", "levels")}
        return cls(**(fields | own | {"latents": latents}))
