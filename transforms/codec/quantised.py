"""What transformers' residual codecs quantise, before they do: their latents, and the way from them to sound past the codebooks.

EnCodec: the encoder's output, 128 numbers at 75 Hz. DAC: the same, 1,024 numbers. Mimi has two quantisers side by side over one
encoder, each behind a projection of its own: a latent is what comes out of both projections, one after the other, 2 x 256 numbers
at 12.5 Hz, and the decoder gets their sum, as it gets that of their codes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

KNOWN = ("encodec", "mimi", "dac")


def levels(network: Any) -> list[Tensor]:
    """Of each codebook the part of a latent that its codes stand for, `[codes, d]`: their sum is the latent that `codes` mean."""
    kind = network.config.model_type
    with torch.inference_mode():
        if kind == "encodec":
            return [layer.codebook.embed for layer in network.quantizer.layers]
        if kind == "dac":
            quantisers = network.quantizer.quantizers
            return [q.out_proj(q.codebook.weight.T[None])[0].T for q in quantisers]
        parts = _mimi(network)
        width = [part.layers[0].codebook.embed.shape[1] for part in parts]
        return [
            functional.pad(layer.codebook.embed, (sum(width[:i]), sum(width[i + 1 :])))
            for i, part in enumerate(parts)
            for layer in part.layers
        ]


def encode(network: Any, given: Tensor) -> tuple[Tensor, Tensor]:
    """Sound `[1, 1, n]` -> (codes `[K, T]` of all codebooks, latents `[T, d]`)."""
    kind = network.config.model_type
    if kind == "encodec":
        embedded = network.encoder(given)
        codes = network.quantizer.encode(embedded, max(network.config.target_bandwidths))
    elif kind == "dac":
        embedded = network.encoder(given)
        codes = network.quantizer(embedded)[1]
    else:
        embedded = network.encoder(given).latents
        codes = network.quantizer.encode(embedded)
        embedded = torch.cat(
            [embedded if p.input_proj is None else p.input_proj(embedded) for p in _mimi(network)], dim=1
        )
    return codes.reshape(-1, codes.shape[-1]), embedded[0].T


def decode(network: Any, latents: Tensor) -> Tensor:
    """Latents `[T, d]` -> sound, `[n]`. Nothing is quantised."""
    kind, given = network.config.model_type, latents.T[None]
    if kind == "encodec":
        return network.decoder(given).reshape(-1)  # type: ignore[no-any-return]
    if kind == "dac":
        return network.decode(quantized_representation=given).audio_values.reshape(-1)  # type: ignore[no-any-return]
    parts = _mimi(network)
    halves = zip(parts, given.chunk(len(parts), dim=1), strict=True)
    summed = sum(half if part.output_proj is None else part.output_proj(half) for part, half in halves)
    return network.decoder(summed).audio_values.reshape(-1)  # type: ignore[no-any-return]


def _mimi(network: Any) -> list[Any]:
    quantiser = network.quantizer
    return [quantiser.semantic_residual_vector_quantizer, quantiser.acoustic_residual_vector_quantizer]
