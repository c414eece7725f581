"""Codecs of continuous latents alone, from a transformers checkpoint folder: VibeVoice's and Pocket TTS's tokenizers, and VITS.

| model type | latents | posterior |
|---|---|---|
| `vibevoice_acoustic_tokenizer` (arXiv 2508.19205) | 64 at 7.5 Hz | one deviation for all, in its config (a sigma-VAE) |
| `pocket_tts_audio_tokenizer` (arXiv 2509.06926) | 32 at 12.5 Hz | the mean alone: checkpoints hold no variances |
| `vits` (arXiv 2106.06103), as facebook/mms-tts | 192 at 62.5 Hz | mean and variance of each frame, from its posterior encoder |

What is stored is the mean. None of them says the scale of its latents: cards have mean 0 and deviation 1 where
`codec.latent_scale` gives no other (`antiphon fit latents`).
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas import Latents
from schemas.errors import UserError
from transforms.codec.codec import Encoded, cut, whole_frames
from transforms.weights import locate

_KNOWN = ("vibevoice_acoustic_tokenizer", "pocket_tts_audio_tokenizer", "vits")


class VaeCodec:
    """Mono, every utterance alone, padded with zeros to whole frames."""

    sizes: tuple[int, ...] = ()

    def __init__(self, model: str, n_codebooks: int | None) -> None:
        """Raises MissingWeights; UserError for another model type, one of many speakers, half a codec, or codebooks asked for."""
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        weight = locate(model)
        config = AutoConfig.from_pretrained(weight.path, local_files_only=True, trust_remote_code=False)
        self._kind = config.model_type
        if self._kind not in _KNOWN:
            raise UserError(f"{weight.path}: a {self._kind} model; those known here are {', '.join(_KNOWN)}")
        if n_codebooks is not None:
            raise UserError(f"codec.n_codebooks is {n_codebooks}; {model} has no codebooks")
        if getattr(config, "num_speakers", 1) > 1:
            raise UserError(f"{weight.path}: a VITS of {config.num_speakers} speakers; those of one are supported")
        if self._kind == "pocket_tts_audio_tokenizer" and None in (config.encoder_config, config.decoder_config):
            raise UserError(f"{weight.path}: an encoder or a decoder alone; both are needed")
        self._network: Any = AutoModel.from_pretrained(
            weight.path, local_files_only=True, trust_remote_code=False
        ).eval()
        self._network.to("cuda" if torch.cuda.is_available() else "cpu")
        self.sha256 = weight.sha256
        self._features = _feature_settings(weight.path)
        # VibeVoice's rate stands only in its feature extractor.
        self.sample_rate_hz = int(getattr(config, "sampling_rate", None) or self._features.get("sampling_rate", 24000))
        self.hop = _hop(config)
        dim = {"vits": "flow_size", "pocket_tts_audio_tokenizer": "latent_dim"}.get(self._kind, "hidden_size")
        n = int(getattr(config, dim))
        noise = float(config.vae_std) if self._kind == "vibevoice_acoustic_tokenizer" else 0.0
        self.latents = Latents("vae", (0.0,) * n, (1.0,) * n, noise=noise, variance=self._kind == "vits")

    def prepare(self, samples: np.ndarray) -> np.ndarray:
        """What is done to an utterance as a whole, before it is cut in pieces: VibeVoice hears all of them equally loud.

        As its feature extractor: to `target_dB_FS` of full scale, and down again where that clips.
        """
        if self._kind != "vibevoice_acoustic_tokenizer" or not self._features.get("normalize_audio", True):
            return samples
        eps = float(self._features.get("eps", 1e-6))
        wanted = 10 ** (float(self._features.get("target_dB_FS", -25)) / 20)
        louder = (
            samples * (wanted / (np.sqrt(np.mean(np.square(samples, dtype=np.float64))) + eps))
            if len(samples)
            else samples
        )
        peak = float(np.abs(louder).max(initial=0))
        return (louder / (peak + eps) if peak > 1 else louder).astype(np.float32)

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """No codes: int64 `[0, ceil(n / hop)]`."""
        return np.zeros((0, -(-len(samples) // self.hop)), dtype=np.int64)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        raise UserError("codec.backend vae: there are no codes to decode, only latents")

    @torch.inference_mode()
    def encode_latents(self, samples: np.ndarray) -> Encoded:
        """float32 `[n]` at `sample_rate_hz` -> mean `[ceil(n / hop), d]`, and the variance where the model gives it."""
        if len(samples) == 0:
            nothing = np.zeros((0, self.latents.dim), dtype=np.float32)
            return Encoded(None, nothing, nothing if self.latents.variance else None)
        given = torch.from_numpy(whole_frames(samples, self.hop).astype(np.float32))[None, None].to(
            self._network.device
        )
        if self._kind == "vits":
            spectrogram = linear_spectrogram(given[0, 0], self._network.config.spectrogram_bins, self.hop)[None]
            mask = torch.ones_like(spectrogram[:, :1])
            _, mean, log_deviation = self._network.posterior_encoder(spectrogram, mask)
            variance = (2 * log_deviation[0].T).exp()
            return Encoded(None, mean[0].T.cpu().numpy(), variance.cpu().numpy())
        more = {"sample": False} if self._kind == "vibevoice_acoustic_tokenizer" else {}
        return Encoded(None, self._network.encode(given, **more).latents[0].float().cpu().numpy())

    @torch.inference_mode()
    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        """float `[T, d]` -> float32 `[T * hop]` at `sample_rate_hz`."""
        if len(latents) == 0:
            return np.zeros(0, dtype=np.float32)
        given = torch.from_numpy(latents.astype(np.float32))[None].to(self._network.device)
        if self._kind == "vits":
            values = self._network.decoder(given.transpose(1, 2))
        else:
            made = self._network.decode(given)
            values = made.audio if self._kind == "vibevoice_acoustic_tokenizer" else made.audio_values
        return cut(values.reshape(-1).float().cpu().numpy(), len(latents) * self.hop)


def linear_spectrogram(samples: Tensor, bins: int, hop: int) -> Tensor:
    """Magnitudes `[bins, n / hop]` of samples `[n]`, n a multiple of the hop: what VITS's posterior encoder was trained on.

    A Hann window of 2 (bins - 1) samples, the ends reflected so that there is one frame a hop (zeros where there is too little
    sound to reflect).
    """
    n_fft = 2 * (bins - 1)
    margin = (n_fft - hop) // 2
    mode = "reflect" if len(samples) > margin else "constant"
    padded = torch.nn.functional.pad(samples[None, None], (margin, n_fft - hop - margin), mode=mode)[0, 0]
    window = torch.hann_window(n_fft, device=samples.device)
    spectrum = torch.stft(padded, n_fft, hop, n_fft, window, center=False, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-6).sqrt()


def _hop(config: Any) -> int:
    if config.model_type == "vits":
        return math.prod(config.upsample_rates)
    return int(config.frame_size if config.model_type == "pocket_tts_audio_tokenizer" else config.hop_length)


def _feature_settings(folder: Path) -> dict[str, Any]:
    """Of the checkpoint's feature extractor; empty where it has none."""
    path = folder / "preprocessor_config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
