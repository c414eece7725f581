"""What made a token stream: enough to refuse tokens that another tokenizer made."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The card of one tokenizer, written into every shard that holds its tokens.

    Attributes:
        kind: the column group that it fills: "units", "codec" or "taste".
        name: its name in the config, such as "whisper-tiny-l4-km500".
        revision: sha256 over its weights and settings; two cards with the same revision give the same tokens.
        sample_rate_hz: rate of the audio it reads.
        hop: samples at `sample_rate_hz` for each frame; 0 where tokens follow words instead of time.
        sizes: size of each codebook, in order; one entry for units.
        frames: "ceil" (codecs pad the tail), "floor" (SSL encoders drop it) or "word" (one frame for each word).
        trim: samples that a "floor" encoder needs beyond whole hops before it gives its first frame.
        semantic: how many of the first codebooks were trained to carry what is said (1 for Mimi); the others carry the sound.
        levels: of a codec whose codebooks run at several rates, how many rows of a frame each codebook has ((1, 2, 4) for SNAC,
            slowest first, in the order of time); empty where each row is a codebook of its own.
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

    @property
    def rate_hz(self) -> float:
        """Frames a second; 0.0 where tokens follow words."""
        return self.sample_rate_hz / self.hop if self.hop else 0.0

    @property
    def bits_per_s(self) -> float:
        """Raw bit rate: rate times the sum of log2 of the codebook sizes; 0.0 where tokens follow words."""
        return self.rate_hz * sum(math.log2(size) for size in self.sizes)

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
        return {name: value for name, value in fields.items() if value or name not in ("semantic", "levels")}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Tokenizer":
        return cls(**(fields | {name: tuple(fields.get(name, ())) for name in ("sizes", "levels")}))
