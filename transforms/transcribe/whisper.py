"""openai-whisper, a batch of utterances at a time, with its own rules for trying again."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from whisper.audio import N_FRAMES, log_mel_spectrogram, pad_or_trim
from whisper.decoding import DecodingOptions, detect_language

from transforms.transcribe.fallback import Attempt, check_window, with_fallback
from transforms.transcribe.stage import RATE_HZ, TranscribeOptions, Transcript
from transforms.whisper_model import load_whisper


class WhisperRecogniser:
    """Any Whisper checkpoint. The encoder runs once for a batch; only transcripts that fail a threshold are decoded again.

    Upstream's `transcribe` reads one file at a time. The rules here are its own, applied to each utterance of a batch.
    """

    def __init__(self, options: TranscribeOptions) -> None:
        self.name = options.model
        self._options = options
        self._model = load_whisper(options.model)

    @torch.inference_mode()
    def transcribe(self, batch: Sequence[np.ndarray], languages: Sequence[str | None], seed: int) -> list[Transcript]:
        """See `Recogniser.transcribe`. Raises ValueError for an utterance of more than 30 s, which Whisper would cut."""
        check_window(batch)
        features = self._model.encoder(torch.stack([self._mel(samples) for samples in batch]))
        sure: dict[int, float] = {}
        if self._model.is_multilingual:
            unknown = [i for i, language in enumerate(languages) if language is None]
            spoken = list(languages)
            if unknown:
                _, found = detect_language(self._model, features[unknown])
                for i, probabilities in zip(unknown, found, strict=True):
                    spoken[i] = max(probabilities, key=probabilities.__getitem__)
                    sure[i] = probabilities[spoken[i]]
        else:
            spoken = ["en"] * len(batch)
        made = with_fallback([str(language) for language in spoken], self._options, self._attempt(features, seed))
        return [replace(transcript, language_prob=sure.get(i)) for i, transcript in enumerate(made)]

    def _mel(self, samples: np.ndarray) -> torch.Tensor:
        mel = log_mel_spectrogram(
            torch.from_numpy(samples), self._model.dims.n_mels, padding=30 * RATE_HZ, device=self._model.device
        )
        return pad_or_trim(mel, N_FRAMES)

    def _attempt(self, features: torch.Tensor, seed: int) -> Attempt:
        """Decoding of encoder states `[B, 1500, d]`."""

        def attempt(members: list[int], language: str, temperature: float) -> list[Transcript]:
            options = DecodingOptions(
                language=language,
                temperature=temperature,
                beam_size=self._options.beam_size if temperature == 0 else None,
                # Asked for timestamps, as upstream's transcribe does, Whisper drops fewer words at the end of a window.
                without_timestamps=False,
                fp16=features.dtype == torch.float16,
            )
            devices = [features.device] if features.is_cuda else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed + round(1000 * temperature))
                # With beams, `decode` takes encoder states one at a time: it repeats the tokens for the beams, and not the states.
                size = 1 if options.beam_size else len(members)
                parts = [members[i : i + size] for i in range(0, len(members), size)]
                decoded = [result for part in parts for result in self._model.decode(features[part], options)]
            return [
                Transcript(r.text, language, r.avg_logprob, r.no_speech_prob, r.compression_ratio, r.temperature)
                for r in decoded
            ]

        return attempt
