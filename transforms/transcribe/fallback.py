"""Whisper's rules over a batch (trying again, silence, its window): what the backends that sample share."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from transforms.transcribe.stage import RATE_HZ, TranscribeOptions, Transcript

Attempt = Callable[[list[int], str, float], Sequence[Transcript]]
"""(indices into the batch, their language, temperature) -> one transcript for each index."""


def with_fallback(spoken: Sequence[str], options: TranscribeOptions, attempt: Attempt) -> list[Transcript]:
    """Transcripts of B utterances in the languages `spoken`, each from the first temperature that passes.

    The rules are those of openai-whisper's `transcribe` (its `decode_with_fallback` and its skipping of silence), applied to
    each utterance of a batch. One call of `attempt` decodes one language; what a recogniser does not know (None) fails nothing.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, language in enumerate(spoken):
        groups[language].append(i)
    results: dict[int, Transcript] = {}
    for language, members in sorted(groups.items()):
        left = members
        for temperature in options.temperatures:
            results.update(zip(left, attempt(left, language, temperature), strict=True))
            left = [i for i in left if fails(results[i], options)]
            if not left:
                break
    found = [results[i] for i in range(len(spoken))]
    return [replace(result, text="") if is_silence(result, options) else result for result in found]


def fails(result: Transcript, options: TranscribeOptions) -> bool:
    """Whether to try the next temperature: the text repeats itself or is too unsure, and is no silence."""
    repeats = result.compression_ratio is not None and result.compression_ratio > options.compression_ratio_threshold
    return (repeats or _unsure(result, options)) and not is_silence(result, options)


def is_silence(result: Transcript, options: TranscribeOptions) -> bool:
    """Whether the recogniser hears no speech, and is unsure of what it wrote all the same."""
    no_speech = result.no_speech_prob is not None and result.no_speech_prob > options.no_speech_threshold
    return no_speech and _unsure(result, options)


def _unsure(result: Transcript, options: TranscribeOptions) -> bool:
    return result.avg_logprob is not None and result.avg_logprob < options.logprob_threshold


def check_window(batch: Sequence[np.ndarray]) -> None:
    """Raises ValueError for an utterance of more than 30 s, which Whisper would cut."""
    longest = max(len(samples) for samples in batch)
    if longest > 30 * RATE_HZ:
        raise ValueError(f"an utterance of {longest / RATE_HZ:.2f} s; Whisper reads at most 30 s (segment.max_s)")
