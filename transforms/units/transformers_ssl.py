"""A layer of HuBERT, wav2vec 2.0, WavLM or kin, from a transformers checkpoint folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.errors import UserError
from transforms.units.encoder import parameters_sha256
from transforms.weights import locate

_MASKED = ("hubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat")
"""Kinds that set padded frames to zero before their positional convolution, which then sees what it sees without padding."""


class TransformersEncoder:
    """Raw waveform in, the output of one transformer layer out, before any final layer norm: fairseq's `output_layer`.

    Models with layer norm in their convolutions (HuBERT large, WavLM large) run a batch padded to its longest waveform, under a
    mask. Models with group norm over time (HuBERT base, wav2vec 2.0 base) give other features for a padded waveform even under a
    mask, so of a batch only waveforms of equal length run together; so do the few kinds whose positional convolutions carry
    what stands in the padding back into the sound (data2vec).
    """

    def __init__(self, model: str, layer: int, normalize: bool | None = None) -> None:
        """Raises MissingWeights; UserError for a model that does not read raw waveforms; ValueError for a layer it lacks."""
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = locate(model).path
        self.model, self.layer = model, layer
        self._network: Any = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
        self._network.to("cuda" if torch.cuda.is_available() else "cpu")
        config = self._network.config
        if not hasattr(config, "conv_kernel"):
            raise UserError(
                f"{folder}: a {config.model_type} model, which does not read raw waveforms as HuBERT and its kin do"
            )
        if not 1 <= layer <= config.num_hidden_layers:
            raise ValueError(f"units.layer is {layer}; {model} has layers 1 to {config.num_hidden_layers}")
        self.sha256 = parameters_sha256(self._network)
        self.dim = config.hidden_size
        self.hop, self.trim = frame_rule(config.conv_kernel, config.conv_stride)
        extractor = _feature_extractor(folder)
        self.sample_rate_hz = int(extractor.get("sampling_rate", 16000))
        norm = getattr(config, "feat_extract_norm", "layer")  # data2vec has no other
        own = bool(extractor.get("do_normalize", norm == "layer"))
        self.normalized = own if normalize is None else normalize
        self._pads = norm == "layer" and config.model_type in _MASKED

    def features(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32 `[n]` at `sample_rate_hz` -> float32 `[max(0, (n - trim) // hop), dim]`."""
        results: list[np.ndarray] = [np.zeros((0, self.dim), dtype=np.float32)] * len(batch)
        groups: dict[int, list[int]] = {}
        for i, samples in enumerate(batch):
            if len(samples) >= self.hop + self.trim:
                groups.setdefault(0 if self._pads else len(samples), []).append(i)
        for members in groups.values():
            for i, features in zip(members, self._run([batch[i] for i in members]), strict=True):
                results[i] = features
        return results

    @torch.inference_mode()
    def _run(self, batch: list[np.ndarray]) -> list[np.ndarray]:
        """float32 `[n]` each -> float32 `[T, dim]` each."""
        lengths = [len(samples) for samples in batch]
        padded = np.zeros((len(batch), max(lengths)), dtype=np.float32)
        mask = np.zeros(padded.shape, dtype=np.int64)
        for row, samples in enumerate(batch):
            padded[row, : len(samples)] = normalize(samples) if self.normalized else samples
            mask[row, : len(samples)] = 1
        device = self._network.device
        # Without padding no mask is needed, and group-norm models were trained without one.
        under = {"attention_mask": torch.from_numpy(mask).to(device)} if min(lengths) < max(lengths) else {}
        # Index 0 is what enters the first layer, so the 1-based layer is its own index.
        hidden = self._network(torch.from_numpy(padded).to(device), output_hidden_states=True, **under).hidden_states
        features = hidden[self.layer].float().cpu().numpy()
        return [row[: (n - self.trim) // self.hop] for row, n in zip(features, lengths, strict=True)]


def frame_rule(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """(hop, trim) in samples of a stack of unpadded convolutions: n samples give `max(0, (n - trim) // hop)` frames.

    The stack's receptive field is `trim + hop`; 400 and 320 for HuBERT's kernels 10, 3, 3, 3, 3, 2, 2.
    """
    hop, field = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return hop, field - hop


def normalize(samples: np.ndarray) -> np.ndarray:
    """A waveform, float32 `[n]`, to zero mean and unit variance, as Wav2Vec2FeatureExtractor does."""
    return ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)


def _feature_extractor(folder: Path) -> dict[str, Any]:
    """The checkpoint's preprocessor_config.json; empty where it has none."""
    path = folder / "preprocessor_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
