"""Code every utterance's sound into residual codebooks, and codes back into sound."""

import hashlib
from typing import Literal

import numpy as np
from pydantic import Field

from schemas import Block, Tokenizer, Utterance
from schemas.errors import UserError
from transforms.batching import map_batches
from transforms.codec.chunks import encode_in_chunks
from transforms.codec.codec import BACKENDS, CodecModel, Encoded
from transforms.codec.latents import continuous, latents_in_chunks, stored, with_scale
from transforms.options import Options
from transforms.registry import load
from transforms.resample import resample
from transforms.stage import Stage
from transforms.weights import locate


class CodecOptions(Options):
    """Codec codes, `[K, T]`: sound in a form that can be turned back into sound."""

    backend: Literal["mel", "lyra", "transformers", "snac", "speechtokenizer", "vae"] = "mel"
    """"mel" (the project's own, 1.9 kbit/s), "lyra" (Lyra v2), "transformers" (EnCodec, Mimi, DAC, X-codec), "snac" or
    "speechtokenizer" (packages of their own), or "vae" (latents alone, with `latents`: the tokenizers of VibeVoice and Pocket TTS,
    VITS)."""
    model: str = "antiphon-codec"
    """The codec's weights: a name ("antiphon-codec", "lyra") or a path."""
    n_codebooks: int | None = None
    """Codebooks to keep, the first ones; null for the codec's usual number (Lyra: 16, which is 3.2 kbit/s; else all)."""
    chunk_s: float | None = Field(None, gt=0)
    """Encode longer utterances in pieces of so many seconds, to bound memory; null encodes each whole."""
    context_s: float = Field(2.0, ge=0)
    """With `chunk_s`: seconds on either side of a piece that are encoded too, and thrown away."""
    latents: bool = False
    """Store continuous latents beside the codes, in `codec_latents`: what is quantised, before it is, or a VAE's mean (and
    `codec_latent_variance`). Their scale is in the codec's card."""
    latent_scale: str | None = None
    """A file of `antiphon fit latents`, whose scale is put in the card; null for the model's own, which a VAE does not have."""


class Codec(Stage):
    """Sets `codec_codes`, uint16 `[K, T]`, undelayed; and `codec_latents`, float16 `[T, d]`, where that is asked for.

    Each utterance is coded alone, whatever else is in the block.
    """

    name = "codec"

    def __init__(self, options: CodecOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights, or UserError where the weights are not of the backend's kind."""
        self._codec = make_codec(self._options)
        self._card = card(self._options, self._codec)

    def __call__(self, block: Block) -> Block:
        def keep(utterance: Utterance, coded: Encoded) -> None:
            utterance.codec_codes = coded.codes
            if self._card.latents:
                utterance.codec_latents, utterance.codec_latent_variance = coded.latents, coded.variance

        map_batches(block, self.name, lambda batch: [self._coded(u) for u in batch], keep, max_items=1)
        block.tokenizers["codec"] = self._card
        return block

    def tokenizer(self) -> Tokenizer:
        return self._card

    def weights(self) -> dict[str, str]:
        o = self._options
        names = [o.model, *([o.latent_scale] if o.latents and o.latent_scale else [])]
        return {name: locate(name).sha256 for name in names}

    def _coded(self, utterance: Utterance) -> Encoded:
        """Codes as uint16, and latents as float16, if any. Raises ValueError where they are not what the card says."""
        samples = resample(utterance.samples, utterance.rate_hz, self._codec.sample_rate_hz)
        if prepare := getattr(self._codec, "prepare", None):
            samples = prepare(samples)
        coded = self._encode(samples)
        if self._card.latents:
            coded = stored(self._card, coded, len(samples))
        if coded.codes is None:
            return coded
        wanted = (len(self._card.sizes), self._card.n_frames(len(samples)))
        if coded.codes.shape != wanted:
            raise ValueError(
                f"{self._card.name}: codes {coded.codes.shape} of {len(samples)} samples, and {wanted} were expected"
            )
        return coded._replace(codes=coded.codes.astype(np.uint16))

    def _encode(self, samples: np.ndarray) -> Encoded:
        o = self._options
        rate_hz = self._codec.sample_rate_hz / self._codec.hop
        n_frames, n_context = max(1, int((o.chunk_s or 0) * rate_hz)), round(o.context_s * rate_hz)
        whole = o.chunk_s is None or len(samples) <= o.chunk_s * self._codec.sample_rate_hz
        if o.latents:
            codec = continuous(self._codec, o.model)
            return codec.encode_latents(samples) if whole else latents_in_chunks(codec, samples, n_frames, n_context)
        codes = self._codec.encode(samples) if whole else encode_in_chunks(self._codec, samples, n_frames, n_context)
        return Encoded(codes, np.zeros((0, 0), dtype=np.float32))


def make_codec(options: CodecOptions) -> CodecModel:
    """The codec, loaded. Raises MissingWeights, or UserError where the weights are not of the backend's kind."""
    return load(BACKENDS, options.backend, "codec.backend")(options.model, options.n_codebooks)


def card(options: CodecOptions, codec: CodecModel) -> Tokenizer:
    """The codec's card; its revision covers the weights, the frame rule, the number of codebooks and the chunks."""
    parts: tuple[object, ...] = (options.backend, codec.sha256, codec.sample_rate_hz, codec.hop, codec.sizes)
    if options.chunk_s is not None:
        parts += (options.chunk_s, options.context_s)
    revision = hashlib.sha256(repr(parts).encode()).hexdigest()
    name = locate(options.model).path.stem
    if not codec.sizes and not options.latents:
        raise UserError(
            f"codec.backend {options.backend}: {name} has no codes, only latents: set codec.latents to true"
        )
    latents = continuous(codec, options.model).latents if options.latents else None
    if latents and options.latent_scale:
        latents = with_scale(latents, locate(options.latent_scale).path, revision)
    semantic, levels = getattr(codec, "semantic", 0), getattr(codec, "levels", ())
    about = ("codec", name, revision, codec.sample_rate_hz, codec.hop, codec.sizes, "ceil")
    return Tokenizer(*about, semantic=semantic, levels=levels, latents=latents)  # type: ignore[arg-type]


def decode_latents(options: CodecOptions, latents: np.ndarray) -> tuple[np.ndarray, int]:
    """Sound of latents: float `[T, d]` -> (float32 `[n]` in -1..1, its rate in Hz), with nothing quantised.

    Raises UserError for a codec without latents, ValueError for latents of another width.
    """
    codec = continuous(make_codec(options), options.model)
    if latents.ndim != 2 or latents.shape[1] != codec.latents.dim:
        raise ValueError(f"{options.model}: latents {latents.shape}; [T, {codec.latents.dim}] is expected")
    return np.clip(codec.decode_latents(latents), -1.0, 1.0).astype(np.float32), codec.sample_rate_hz


def decode_codes(options: CodecOptions, codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Sound of undelayed codes: integers `[K, T]` -> (float32 `[n]` in -1..1, its rate in Hz).

    Raises:
        ValueError: codes outside their codebooks, or not as many rows as the codec has codebooks.
    """
    codec = make_codec(options)
    if codes.ndim != 2 or len(codes) != len(codec.sizes):
        raise ValueError(
            f"{options.model}: codes of shape {codes.shape}; [K, T] with K = {len(codec.sizes)} is expected"
        )
    beyond = [
        k for k, size in enumerate(codec.sizes) if codes.shape[1] and not 0 <= codes[k].min() <= codes[k].max() < size
    ]
    if beyond:
        raise ValueError(f"{options.model}: codes outside codebooks {beyond} of sizes {codec.sizes}")
    return np.clip(codec.decode(codes), -1.0, 1.0).astype(np.float32), codec.sample_rate_hz
