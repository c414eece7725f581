"""openai-whisper, a batch of utterances at a time, with its own rules for trying again."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from whisper.audio import N_FRAMES, log_mel_spectrogram, pad_or_trim
from whisper.decoding import DecodingOptions, DecodingResult, detect_language

from transforms.transcribe.stage import RATE_HZ, TranscribeOptions, Transcript
from transforms.whisper_model import load_whisper


class WhisperRecogniser:
    """Any Whisper checkpoint. The encoder runs once for a batch; only transcripts that fail a threshold are decoded again.

    Upstream's `transcribe` reads one file at a time. The rules here are its own (its `decode_with_fallback` and its skipping
    of silence), applied to each utterance of a batch.
    """

    def __init__(self, options: TranscribeOptions) -> None:
        self.name = options.model
        self._options = options
        self._model = load_whisper(options.model)

    @torch.inference_mode()
    def transcribe(self, batch: Sequence[np.ndarray], languages: Sequence[str | None], seed: int) -> list[Transcript]:
        """See `Recogniser.transcribe`. Raises ValueError for an utterance of more than 30 s, which Whisper would cut."""
        longest = max(len(samples) for samples in batch)
        if longest > 30 * RATE_HZ:
            raise ValueError(f"an utterance of {longest / RATE_HZ:.2f} s; Whisper reads at most 30 s (segment.max_s)")
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
        # One call decodes one language: group them.
        groups: dict[str, list[int]] = defaultdict(list)
        for i, language in enumerate(spoken):
            groups[str(language)].append(i)
        transcripts: dict[int, Transcript] = {}
        for language, members in sorted(groups.items()):
            for i, result in zip(members, self._decode(features[members], language, seed), strict=True):
                transcripts[i] = self._transcript(result, language, sure.get(i))
        return [transcripts[i] for i in range(len(batch))]

    def _mel(self, samples: np.ndarray) -> torch.Tensor:
        mel = log_mel_spectrogram(
            torch.from_numpy(samples), self._model.dims.n_mels, padding=30 * RATE_HZ, device=self._model.device
        )
        return pad_or_trim(mel, N_FRAMES)

    def _decode(self, features: torch.Tensor, language: str, seed: int) -> list[DecodingResult]:
        """Encoder states `[B, 1500, d]` -> B results, each at the first temperature that passes."""
        results: dict[int, DecodingResult] = {}
        left = list(range(len(features)))
        for temperature in self._options.temperatures:
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
                decoded = self._model.decode(features[left], options)
            for i, result in zip(left, decoded, strict=True):
                results[i] = result
            left = [i for i in left if self._fails(results[i])]
            if not left:
                break
        return [results[i] for i in range(len(features))]

    def _fails(self, result: DecodingResult) -> bool:
        repeats = result.compression_ratio > self._options.compression_ratio_threshold
        unsure = result.avg_logprob < self._options.logprob_threshold
        return (repeats or unsure) and not self._is_silence(result)

    def _is_silence(self, result: DecodingResult) -> bool:
        unsure = result.avg_logprob < self._options.logprob_threshold
        return unsure and result.no_speech_prob > self._options.no_speech_threshold

    def _transcript(self, result: DecodingResult, language: str, language_prob: float | None) -> Transcript:
        return Transcript(
            "" if self._is_silence(result) else result.text,
            language,
            result.avg_logprob,
            result.no_speech_prob,
            result.compression_ratio,
            result.temperature,
            language_prob,
        )
