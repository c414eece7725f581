"""Any speech recogniser in a Hugging Face folder: encoder and decoder (Whisper, Moonshine ...) or CTC (wav2vec 2.0 ...)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.errors import UserError
from transforms.transcribe.stage import RATE_HZ, Recogniser, TranscribeOptions, Transcript
from transforms.weights import locate


def transformers_recogniser(options: TranscribeOptions) -> Recogniser:
    """The recogniser for what the folder's config says it is. Raises MissingWeights; UserError for what is no recogniser."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CTC_MAPPING_NAMES,
        MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    )

    folder = locate(options.model).path
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json, so no Hugging Face checkpoint folder (transcribe.model)")
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    named = " ".join(config.architectures or [])
    if config.model_type in MODEL_FOR_CTC_MAPPING_NAMES and "Seq2Seq" not in named:
        return CtcRecogniser(folder, options)
    if config.model_type in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES and config.is_encoder_decoder:
        from transforms.transcribe.transformers_seq2seq import Seq2SeqRecogniser, WhisperCheckpoint

        return (WhisperCheckpoint if config.model_type == "whisper" else Seq2SeqRecogniser)(folder, options)
    raise UserError(f"{folder}: a {config.model_type} model, which transformers knows no speech recognition for")


class Checkpoint:
    """A model with its feature extractor and its tokenizer: the parts of `AutoProcessor`, without what it may need beyond them."""

    def __init__(self, folder: Path, auto: Any) -> None:
        """`auto`: transformers' class that loads the model. Raises OSError or ValueError, as it does."""
        from transformers import AutoFeatureExtractor, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.model: Any = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eval()
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        if self.extractor.sampling_rate != RATE_HZ:
            raise UserError(f"{folder}: reads {self.extractor.sampling_rate} Hz; transcribe gives {RATE_HZ} Hz")
        # Group norm over time takes in the padding, whatever the mask says: such models hear equal lengths together.
        grouped = any(isinstance(module, torch.nn.GroupNorm) for module in self.model.modules())
        self.pads = not grouped and bool(getattr(self.extractor, "return_attention_mask", False))

    def inputs(self, batch: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """B float32 `[n]` -> what the model takes, the first axis B, with a mask where it is padded."""
        found = self.extractor(
            list(batch),
            sampling_rate=RATE_HZ,
            padding=self.pads,
            return_attention_mask=self.pads,
            return_tensors="pt",
        )
        return {name: value.to(self.model.device) for name, value in found.items()}

    def together(self, batch: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """Indices of what may run together: all, or those of equal length."""
        if self.pads:
            yield list(range(len(batch)))
            return
        for n in sorted({len(samples) for samples in batch}):
            yield [i for i, samples in enumerate(batch) if len(samples) == n]


class CtcRecogniser:
    """Best path: the likeliest letter of each frame, repeats and blanks taken out. Says nothing about language or silence.

    `avg_logprob` is the mean over the letters of the log-probability at the best frame of each.
    """

    def __init__(self, folder: Path, options: TranscribeOptions) -> None:
        from transformers import AutoModelForCTC

        self.name = options.model
        self._checkpoint = Checkpoint(folder, AutoModelForCTC)
        self._blank = int(self._checkpoint.model.config.pad_token_id)
        # Only where the model tells which frames are padding can padded sound be read.
        self._checkpoint.pads &= hasattr(self._checkpoint.model, "_get_feature_vector_attention_mask")

    def transcribe(self, batch: Sequence[np.ndarray], languages: Sequence[str | None], seed: int) -> list[Transcript]:
        """See `Recogniser.transcribe`; nothing here is random. An unknown language stays empty."""
        found: dict[int, Transcript] = {}
        for members in self._checkpoint.together(batch):
            for i, log_probs in zip(members, self._hear([batch[i] for i in members]), strict=True):
                best, ids = log_probs.max(axis=1), log_probs.argmax(axis=1)
                text = self._checkpoint.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
                found[i] = Transcript(text, languages[i] or "", letter_logprob(ids, best, self._blank))
        return [found[i] for i in range(len(batch))]

    @torch.inference_mode()
    def _hear(self, batch: list[np.ndarray]) -> list[np.ndarray]:
        """B float32 `[n]` -> B log-probabilities `[T, V]`, each of its own frames only."""
        inputs = self._checkpoint.inputs(batch)
        model = self._checkpoint.model
        log_probs = model(**inputs).logits.float().log_softmax(dim=-1).cpu().numpy()
        if not self._checkpoint.pads:
            return list(log_probs)
        mask = model._get_feature_vector_attention_mask(log_probs.shape[1], inputs["attention_mask"])
        return [rows[: int(n)] for rows, n in zip(log_probs, mask.sum(dim=1), strict=True)]


def letter_logprob(ids: np.ndarray, log_probs: np.ndarray, blank: int) -> float | None:
    """Mean over the runs of equal `ids` `[T]` (blanks apart) of each run's greatest of `log_probs` `[T]`; None without any."""
    edges = np.flatnonzero(np.diff(ids, prepend=-1))
    if not len(edges):
        return None
    peaks = np.maximum.reduceat(log_probs, edges)[ids[edges] != blank]
    return float(peaks.mean()) if len(peaks) else None
