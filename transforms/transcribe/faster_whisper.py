"""Whisper in CTranslate2, as faster-whisper loads it: any converted checkpoint folder, with the same rules as openai-whisper."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from whisper.audio import N_FRAMES, log_mel_spectrogram, pad_or_trim
from whisper.utils import compression_ratio

from schemas.errors import UserError
from transforms.transcribe.fallback import Attempt, check_window, with_fallback
from transforms.transcribe.stage import RATE_HZ, TranscribeOptions, Transcript
from transforms.weights import locate


class FasterWhisperRecogniser:
    """faster-whisper's model and tokenizer; batches, fallbacks and the spectrogram are openai-whisper's.

    faster-whisper pads the spectrogram with zeros, openai-whisper the sound; the latter is what Whisper was trained on. The
    weights run in the type that they are stored in, where the processor can ("int8" halves them and more).
    """

    def __init__(self, options: TranscribeOptions) -> None:
        """Raises MissingWeights, and UserError for a path that is no CTranslate2 Whisper or without faster-whisper installed."""
        folder = locate(options.model).path
        for name in ("model.bin", "tokenizer.json"):
            # Without a tokenizer, faster-whisper would go and fetch one.
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder}: no {name}, so no Whisper for faster-whisper; `python -m transforms.transcribe.convert "
                    f"NAME FOLDER --ctranslate2` makes one from an openai-whisper checkpoint"
                )
        try:
            import ctranslate2
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise UserError(
                f"transcribe.backend faster-whisper: {error}; pip install antiphon[faster-whisper]"
            ) from None

        self.name = options.model
        self._options = options
        self._folder = folder
        self._seed = ctranslate2.set_random_seed
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        self._settings: dict[str, Any] = {"device": device, "intra_threads": torch.get_num_threads()}
        self._model = WhisperModel(
            str(folder), device=device, cpu_threads=torch.get_num_threads(), local_files_only=True
        )

    def transcribe(self, batch: Sequence[np.ndarray], languages: Sequence[str | None], seed: int) -> list[Transcript]:
        """See `Recogniser.transcribe`. Raises ValueError for an utterance of more than 30 s, which Whisper would cut."""
        check_window(batch)
        features = np.stack([self._mel(samples) for samples in batch])
        spoken = [language or "en" for language in languages]
        unknown = [i for i, language in enumerate(languages) if language is None]
        if not self._model.model.is_multilingual:
            spoken = ["en"] * len(batch)
        elif unknown:
            found = self._model.model.detect_language(self._model.encode(features[unknown]))
            for i, probabilities in zip(unknown, found, strict=True):
                spoken[i] = probabilities[0][0].strip("<|>")
        return with_fallback(spoken, self._options, self._attempt(features, seed))

    def _mel(self, samples: np.ndarray) -> np.ndarray:
        mel = log_mel_spectrogram(torch.from_numpy(samples), self._model.model.n_mels, padding=30 * RATE_HZ)
        return pad_or_trim(mel, N_FRAMES).numpy()

    def _attempt(self, features: np.ndarray, seed: int) -> Attempt:
        """Decoding of spectrograms `[B, n_mels, 3000]`."""
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_suppressed_tokens

        def attempt(members: list[int], language: str, temperature: float) -> list[Transcript]:
            multilingual = self._model.model.is_multilingual
            tokenizer = Tokenizer(self._model.hf_tokenizer, multilingual, task="transcribe", language=language)
            if temperature > 0:
                self._restart(seed + round(1000 * temperature))
                how = {"beam_size": 1, "sampling_topk": 0, "sampling_temperature": temperature}
            else:
                how = {"beam_size": self._options.beam_size or 1}
            results = self._model.model.generate(
                self._model.encode(features[members]),
                [tokenizer.sot_sequence] * len(members),
                return_scores=True,
                return_no_speech_prob=True,
                suppress_tokens=list(get_suppressed_tokens(tokenizer, [-1])),
                # openai-whisper's sample_len: half the decoder's positions.
                max_length=len(tokenizer.sot_sequence) + self._model.max_length // 2,
                **how,
            )
            return [self._transcript(result, tokenizer, language, temperature) for result in results]

        return attempt

    def _restart(self, seed: int) -> None:
        """Load the model anew: a CTranslate2 worker takes the seed when it first draws, and never again (seen with 4.8.5)."""
        from ctranslate2.models import Whisper

        self._seed(seed)
        del self._model.model  # first, so that never two of them fill the memory
        self._model.model = Whisper(str(self._folder), **self._settings)

    def _transcript(self, result: Any, tokenizer: Any, language: str, temperature: float) -> Transcript:
        tokens = result.sequences_ids[0]
        text = tokenizer.decode(tokens).strip()
        # The score is the mean over the tokens; openai-whisper counts the one that ends them as well.
        avg_logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        repeats = compression_ratio(text)
        return Transcript(text, language, avg_logprob, result.no_speech_prob, repeats, temperature)
