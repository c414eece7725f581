"""Labels of utterances by any audio classifier in the Hugging Face format: emotion, sound events, place, gender."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from schemas import Block, Utterance
from schemas import Label as Found
from schemas.errors import UserError
from transforms.batching import map_batches
from transforms.options import Options
from transforms.resample import resample
from transforms.stage import Stage
from transforms.weights import locate

_LEAST_S = 0.5
"""Shorter audio is filled up with silence: stacks of convolutions need some samples."""


class Classifier(Options):
    """One classifier and the name that its labels go by."""

    name: str = Field(min_length=1)
    """Such as emotion; it stands beside each of its labels."""
    model: str = Field(min_length=1)
    """A checkpoint folder with config.json and preprocessor_config.json, or a name that `antiphon pull` knows, `owner/name` too."""
    top: int = Field(1, ge=1)
    """How many labels to keep, likeliest first."""


class LabelOptions(Options):
    """Audio classifiers, run over every utterance."""

    models: tuple[Classifier, ...] = Field(min_length=1)
    """The classifiers, each with a name of its own."""
    window_s: float = Field(10.0, ge=1)
    """An utterance is heard in equal parts of at most this, and their probabilities averaged: some classifiers read no more of
    what they are given (an Audio Spectrogram Transformer 10.24 s), without a word."""
    batch_size: int = Field(8, ge=1)
    """Parts of one length that are run together."""

    @field_validator("models")
    @classmethod
    def _each_its_own(cls, models: tuple[Classifier, ...]) -> tuple[Classifier, ...]:
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise ValueError(f"two classifiers have one name: {', '.join(names)}")
        return models


class Label(Stage):
    """Sets `labels`."""

    name = "label"

    def __init__(self, options: LabelOptions) -> None:
        super().__init__(options)
        self._options = options

    def setup(self) -> None:
        """Raises MissingWeights where a checkpoint is not on this machine, and UserError for one that classifies no audio."""
        self._networks = [Network(c.model, self._options.batch_size) for c in self._options.models]

    def weights(self) -> dict[str, str]:
        return {c.model: locate(c.model).sha256 for c in self._options.models}

    def __call__(self, block: Block) -> Block:
        for classifier, network in zip(self._options.models, self._networks, strict=True):

            def run(batch: list[Utterance], network: Network = network) -> list[np.ndarray]:
                heard = [resample(u.samples, u.rate_hz, network.rate_hz) for u in batch]
                return network.probabilities(heard, self._options.window_s)

            def keep(
                utterance: Utterance, p: np.ndarray, c: Classifier = classifier, network: Network = network
            ) -> None:
                best = np.argsort(-p, kind="stable")[: c.top]
                utterance.labels += [Found(c.name, network.labels[i], float(p[i])) for i in best]

            map_batches(block, self.name, run, keep)
        return block


class Network:
    """A checkpoint and its feature extractor, on the GPU where there is one.

    Only audio of equal length runs together: padding changes what models with group norm over time (HuBERT base, wav2vec 2.0
    base) say, even under an attention mask.
    """

    def __init__(self, model: str, batch_size: int) -> None:
        import torch
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = locate(model).path
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._extractor = AutoFeatureExtractor.from_pretrained(folder, **local)
            self._network, info = AutoModelForAudioClassification.from_pretrained(
                folder, output_loading_info=True, **local
            )
        except (ValueError, OSError) as error:
            raise UserError(f"{folder}: no audio classifier: {' '.join(str(error).split())[:300]}") from error
        if info["missing_keys"]:
            raise UserError(
                f"{folder}: no audio classifier: its file has no {', '.join(sorted(info['missing_keys'])[:5])}, which would "
                "be random"
            )
        self._network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._batch_size = batch_size
        config = self._network.config
        self.labels = [str(config.id2label[i]) for i in range(config.num_labels)]
        self.rate_hz = int(self._extractor.sampling_rate)
        self._independent = config.problem_type == "multi_label_classification"

    def probabilities(self, batch: Sequence[np.ndarray], window_s: float) -> list[np.ndarray]:
        """B float32 `[n]` at `rate_hz` -> B `[labels]`: softmax, or sigmoids in a checkpoint for several labels at once."""
        cut = [parts(samples, round(window_s * self.rate_hz), round(_LEAST_S * self.rate_hz)) for samples in batch]
        by_length: dict[int, list[tuple[int, np.ndarray]]] = {}
        for i, pieces in enumerate(cut):
            for piece in pieces:
                by_length.setdefault(len(piece), []).append((i, piece))
        sums = np.zeros((len(batch), len(self.labels)))
        for length in sorted(by_length):
            members = by_length[length]
            for at in range(0, len(members), self._batch_size):
                some = members[at : at + self._batch_size]
                for (i, _), p in zip(some, self._run([piece for _, piece in some]), strict=True):
                    sums[i] += p
        return list(sums / np.array([len(pieces) for pieces in cut])[:, None])

    def _run(self, pieces: list[np.ndarray]) -> np.ndarray:
        """Pieces of one length -> `[B, labels]`."""
        import torch

        given = self._extractor(pieces, sampling_rate=self.rate_hz, return_tensors="pt")
        with torch.inference_mode():
            logits = self._network(**given.to(self._network.device)).logits.float()
            p: np.ndarray = (logits.sigmoid() if self._independent else logits.softmax(dim=-1)).cpu().numpy()
        return p


def parts(samples: np.ndarray, longest: int, least: int) -> list[np.ndarray]:
    """Parts of `[n]`, all of one length of at most `longest`, whose last two overlap where it does not divide; see `_LEAST_S`."""
    count = max(1, -(-len(samples) // longest))
    length = max(least, -(-len(samples) // count))
    padded = np.pad(samples, (0, max(0, length - len(samples))))
    return [padded[min(i * length, len(padded) - length) :][:length] for i in range(count)]
