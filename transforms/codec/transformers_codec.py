"""EnCodec, Mimi, DAC and X-codec, from a transformers checkpoint folder."""

from typing import Any

import numpy as np
import torch

from schemas.errors import UserError
from transforms.codec import quantised
from transforms.codec.codec import Encoded, check_codebooks, cut, whole_frames
from transforms.codec.latents import rvq_latents
from transforms.weights import locate

_KNOWN = ("encodec", "mimi", "dac", "xcodec")


class TransformersCodec:
    """A mono residual codec. Every utterance is coded whole and alone, padded with zeros to whole frames.

    All codebooks are computed and the first ones kept: each codes what the ones before left over, so the first K are the same
    whether or not others follow.
    """

    def __init__(self, model: str, n_codebooks: int | None) -> None:
        """Raises MissingWeights; UserError for another model type, stereo, chunked coding, or too many codebooks."""
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        weight = locate(model)
        config = AutoConfig.from_pretrained(weight.path, local_files_only=True, trust_remote_code=False)
        if config.model_type not in _KNOWN:
            raise UserError(
                f"{weight.path}: a {config.model_type} model; the codecs known here are {', '.join(_KNOWN)}"
            )
        if getattr(config, "audio_channels", 1) != 1 or getattr(config, "chunk_length_s", None):
            raise UserError(
                f"{weight.path}: a stereo or chunked codec (EnCodec at 48 kHz); mono ones coded whole are supported"
            )
        self._kind = config.model_type
        self._network: Any = AutoModel.from_pretrained(
            weight.path, local_files_only=True, trust_remote_code=False
        ).eval()
        self._network.to("cuda" if torch.cuda.is_available() else "cpu")
        self.sha256 = weight.sha256
        self.sample_rate_hz = int(config.sample_rate if self._kind == "xcodec" else config.sampling_rate)
        self.hop = _hop(config)
        self.latents = rvq_latents(quantised.levels(self._network)) if self._kind in quantised.KNOWN else None
        available = _n_codebooks(config)
        # Mimi's first codebook is distilled from WavLM and quantised apart from the others.
        self.semantic = int(config.num_semantic_quantizers) if self._kind == "mimi" else 0
        self.sizes = (int(config.codebook_size),) * check_codebooks(n_codebooks, available, available, model)

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` at `sample_rate_hz` -> int64 `[K, ceil(n / hop)]`."""
        n_frames = -(-len(samples) // self.hop)
        if n_frames == 0:
            return np.zeros((len(self.sizes), 0), dtype=np.int64)
        given = self._whole_frames(samples)
        # EnCodec alone is asked for a bit rate, and would otherwise take its lowest.
        rate = {"bandwidth": max(self._network.config.target_bandwidths)} if self._kind == "encodec" else {}
        codes = self._network.encode(given, **rate).audio_codes
        return codes.reshape(-1, codes.shape[-1])[: len(self.sizes)].cpu().numpy()

    @torch.inference_mode()
    def encode_latents(self, samples: np.ndarray) -> Encoded:
        """float32 `[n]` at `sample_rate_hz` -> codes and what they code (transforms/codec/quantised.py). Not of X-codec."""
        assert self.latents
        if len(samples) == 0:
            return Encoded(self.encode(samples), np.zeros((0, self.latents.dim), dtype=np.float32))
        codes, latents = quantised.encode(self._network, self._whole_frames(samples))
        return Encoded(codes[: len(self.sizes)].cpu().numpy(), latents.float().cpu().numpy())

    @torch.inference_mode()
    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        """float `[T, d]` -> float32 `[T * hop]` at `sample_rate_hz`, past the codebooks."""
        if len(latents) == 0:
            return np.zeros(0, dtype=np.float32)
        given = torch.from_numpy(latents.astype(np.float32)).to(self._network.device)
        return cut(quantised.decode(self._network, given).float().cpu().numpy(), len(latents) * self.hop)

    def _whole_frames(self, samples: np.ndarray) -> torch.Tensor:
        """Samples `[n]` -> `[1, 1, whole frames]`."""
        return torch.from_numpy(whole_frames(samples, self.hop).astype(np.float32))[None, None].to(self._network.device)

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int `[k, T]` -> float32 `[T * hop]` at `sample_rate_hz`."""
        n_samples = codes.shape[1] * self.hop
        if n_samples == 0:
            return np.zeros(0, dtype=np.float32)
        given = torch.from_numpy(codes.astype(np.int64))[None].to(self._network.device)
        if self._kind == "encodec":
            values = self._network.decode(given[None], audio_scales=[None]).audio_values
        else:
            values = self._network.decode(audio_codes=given).audio_values
        return cut(values.reshape(-1).float().cpu().numpy(), n_samples)


def _hop(config: Any) -> int:
    """Samples in a frame. Mimi halves its rate once more after the convolutions, which only its frame rate tells."""
    if config.model_type == "mimi":
        return round(config.sampling_rate / config.frame_rate)
    return int(config.hop_length)


def _n_codebooks(config: Any) -> int:
    return int(config.n_codebooks if config.model_type == "dac" else config.num_quantizers)
