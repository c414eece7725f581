"""Frozen centroids and what they were fitted on: one safetensors file."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from schemas.errors import UserError
from transforms.units.encoder import Encoder

_HEADER = "antiphon"
"""The one metadata key, a JSON object: with several, safetensors does not always write the same bytes."""


class WrongQuantizer(UserError):
    """The file is no quantizer, or it was fitted on another encoder or layer."""


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Centroids in the space of one encoder layer.

    Attributes:
        centroids: float32 `[k, d]`.
        encoder: name of the encoder. encoder_sha256: of its parameters. layer: 1-based.
        data: what it was fitted on, with its licence.
        normalized: whether the encoder read waveforms of zero mean and unit variance; None where that is not known.
    """

    centroids: np.ndarray
    encoder: str
    encoder_sha256: str
    layer: int
    data: str
    normalized: bool | None = None

    @property
    def sha256(self) -> str:
        """Of the centroids."""
        return hashlib.sha256(np.ascontiguousarray(self.centroids).tobytes()).hexdigest()

    def check(self, encoder: Encoder, source: str) -> None:
        """Raise WrongQuantizer unless it was fitted on this layer of this encoder, fed in the same way."""
        if (self.layer, self.encoder_sha256) == (encoder.layer, encoder.sha256):
            if self.normalized in (None, encoder.normalized):
                return
            raise WrongQuantizer(
                f"{source}: fitted with normalize {str(self.normalized).lower()}, but {encoder.model} runs with normalize "
                f"{str(encoder.normalized).lower()}; set units.normalize"
            )
        raise WrongQuantizer(
            f"{source}: fitted on layer {self.layer} of {self.encoder} (parameters {self.encoder_sha256[:12]}), but the config "
            f"asks for layer {encoder.layer} of {encoder.model} (parameters {encoder.sha256[:12]}); set units.model and "
            "units.layer to what it was fitted on, or fit another with `antiphon fit units`"
        )

    def as_bytes(self) -> bytes:
        """A safetensors file: the centroids as float16, the rest as the header. The same quantizer gives the same bytes."""
        from safetensors.numpy import save

        fields = asdict(self)
        centroids = fields.pop("centroids").astype(np.float16)
        if fields["normalized"] is None:
            del fields["normalized"]
        header = json.dumps(fields | {"k": len(centroids)}, sort_keys=True)
        return save({"centroids": centroids}, metadata={_HEADER: header})

    def save(self, path: Path) -> None:
        """Write `as_bytes`."""
        path.write_bytes(self.as_bytes())


def load(path: Path) -> Quantizer:
    """Read what `Quantizer.save` wrote. Raises WrongQuantizer for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            fields = json.loads((file.metadata() or {})[_HEADER])
            centroids = file.get_tensor("centroids").astype(np.float32)
        base = (centroids, fields["encoder"], fields["encoder_sha256"], int(fields["layer"]), fields["data"])
        return Quantizer(*base, fields.get("normalized"))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WrongQuantizer(
            f"{path}: not a file of k-means centroids that `antiphon fit units` wrote ({error!r})"
        ) from error
