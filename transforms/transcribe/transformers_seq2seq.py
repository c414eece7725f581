"""Encoder-decoder recognisers through transformers; Whisper with openai-whisper's prompt and rules."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSpeechSeq2Seq, GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.modeling_outputs import BaseModelOutput
from whisper.tokenizer import LANGUAGES
from whisper.utils import compression_ratio

from transforms.transcribe.fallback import Attempt, check_window, with_fallback
from transforms.transcribe.stage import RATE_HZ, TranscribeOptions, Transcript
from transforms.transcribe.transformers_asr import Checkpoint

_TOKENS_PER_S = 35
"""No more tokens than this for a second of sound: as many letters as `filter.max_chars_per_s` lets pass."""


class Seq2SeqRecogniser:
    """Moonshine, SpeechT5, Speech2Text and kin: what `AutoModelForSpeechSeq2Seq` loads and needs no prompt."""

    def __init__(self, folder: Path, options: TranscribeOptions) -> None:
        self.name = options.model
        self._options = options
        self._checkpoint = Checkpoint(folder, AutoModelForSpeechSeq2Seq)
        self._model = self._checkpoint.model

    @torch.inference_mode()
    def transcribe(self, batch: Sequence[np.ndarray], languages: Sequence[str | None], seed: int) -> list[Transcript]:
        """See `Recogniser.transcribe`. An unknown language stays empty."""
        found: dict[int, Transcript] = {}
        for members in self._checkpoint.together(batch):
            inputs = self._checkpoint.inputs([batch[i] for i in members])
            longest_s = max(len(batch[i]) for i in members) / RATE_HZ
            attempt = self._attempt(inputs, _most_tokens(self._model, longest_s), seed)
            results = with_fallback([languages[i] or "" for i in members], self._options, attempt)
            found.update(zip(members, results, strict=True))
        return [found[i] for i in range(len(batch))]

    def _attempt(self, inputs: dict[str, torch.Tensor], most_tokens: int, seed: int) -> Attempt:
        def attempt(members: list[int], language: str, temperature: float) -> list[Transcript]:
            mine = {name: value[members] for name, value in inputs.items()}
            tokens, scores = self._generate(mine, [], most_tokens, temperature, seed)
            texts = [self._checkpoint.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
            return [
                Transcript(text, language, score, None, compression_ratio(text), temperature)
                for text, score in zip(texts, scores, strict=True)
            ]

        return attempt

    def _generate(
        self, inputs: dict[str, Any], rules: list[LogitsProcessor], most_tokens: int, temperature: float, seed: int
    ) -> tuple[list[list[int]], list[float]]:
        """B rows of tokens, the prompt among them, and the mean log-probability of each row's own, its end included.

        `GenerationMixin.generate`, whatever the model has put in its place: Whisper's own loops over windows and temperatures.
        """
        beams = self._options.beam_size or 1 if temperature == 0 else 1
        prompted = inputs["decoder_input_ids"].shape[1] if "decoder_input_ids" in inputs else 1
        tally = Tally(self._model.generation_config.eos_token_id)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
        device = self._model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed + round(1000 * temperature))
            found = GenerationMixin.generate(
                self._model,
                **inputs,
                **({"do_sample": False} | sampling),
                num_beams=beams,
                length_penalty=1.0,
                logits_processor=LogitsProcessorList([*rules, *([tally] if beams == 1 else [])]),
                # Beams add up what comes out of the rules: probabilities again, as openai-whisper has them.
                renormalize_logits=beams > 1,
                max_length=prompted + most_tokens,
                return_dict_in_generate=True,
                output_scores=beams > 1,
            )
        scores = tally.means(found.sequences) if beams == 1 else found.sequences_scores
        return found.sequences.tolist(), scores.tolist()


class WhisperCheckpoint(Seq2SeqRecogniser):
    """Whisper in Hugging Face's format. The encoder runs once; then as openai-whisper does: asked for timestamps, greedy first."""

    def __init__(self, folder: Path, options: TranscribeOptions) -> None:
        super().__init__(folder, options)
        number = self._checkpoint.tokenizer.convert_tokens_to_ids
        known = {code: number(f"<|{code}|>") for code in LANGUAGES}
        self._start, self._task = number("<|startoftranscript|>"), number("<|transcribe|>")
        self._end = self._model.generation_config.eos_token_id
        self._languages = {code: i for code, i in known.items() if i is not None and i != self._end}
        # Its name before large-v3, and since.
        silent = [number(token) for token in ("<|nospeech|>", "<|nocaptions|>")]
        self._silent = next(i for i in silent if i is not None and i != self._end)
        self._multilingual = self._model.config.vocab_size >= 51865  # whisper/model.py

    @torch.inference_mode()
    def transcribe(self, batch: Sequence[np.ndarray], languages: Sequence[str | None], seed: int) -> list[Transcript]:
        """See `Recogniser.transcribe`. Raises ValueError for an utterance of more than 30 s, which Whisper would cut."""
        check_window(batch)
        inputs = self._checkpoint.extractor(list(batch), sampling_rate=RATE_HZ, return_tensors="pt")
        features = inputs["input_features"].to(self._model.device, self._model.dtype)
        states = self._model.get_encoder()(features).last_hidden_state
        started = torch.full((len(batch), 1), self._start, device=states.device)
        logits = self._model(encoder_outputs=(states,), decoder_input_ids=started).logits[:, 0].float()
        silences = logits.softmax(dim=-1)[:, self._silent].tolist()
        codes = list(self._languages)
        likeliest = logits[:, list(self._languages.values())].argmax(dim=-1).tolist()
        spoken = [
            (language or codes[i]) if self._multilingual else "en"
            for language, i in zip(languages, likeliest, strict=True)
        ]
        return with_fallback(spoken, self._options, self._decode(states, silences, seed))

    def _decode(self, states: torch.Tensor, silences: list[float], seed: int) -> Attempt:
        """Decoding of encoder states `[B, T, d]`, whose probabilities of no speech are `silences`."""

        def attempt(members: list[int], language: str, temperature: float) -> list[Transcript]:
            if self._multilingual and language not in self._languages:
                raise ValueError(f"{self.name} does not know the language {language!r}")
            prompt = [self._start, self._languages[language], self._task] if self._multilingual else [self._start]
            inputs = {
                "encoder_outputs": BaseModelOutput(last_hidden_state=states[members]),
                "attention_mask": torch.ones(states[members].shape[:2], dtype=torch.long, device=states.device),
                "decoder_input_ids": torch.tensor([prompt] * len(members), device=states.device),
            }
            # openai-whisper's sample_len: half the decoder's positions.
            most_tokens = self._model.config.max_target_positions // 2
            # Its other rules, the lists of suppressed tokens, `generate` takes from the checkpoint itself.
            rules = [WhisperTimeStampLogitsProcessor(self._model.generation_config, len(prompt))]
            tokens, scores = self._generate(inputs, rules, most_tokens, temperature, seed)
            found = []
            for i, row, score in zip(members, tokens, scores, strict=True):
                # Timestamps and all special tokens are numbered from the end of a text on.
                text = self._checkpoint.tokenizer.decode([token for token in row if token < self._end]).strip()
                found.append(Transcript(text, language, score, silences[i], compression_ratio(text), temperature))
            return found

        return attempt


class Tally(LogitsProcessor):
    """Adds up the log-probabilities of the tokens that are chosen, so that `[B, V]` scores need not be kept for every step.

    It stands after all rules and before the temperature, as where openai-whisper takes them.
    """

    def __init__(self, ends: int | Sequence[int] | None) -> None:
        """`ends`: the token or tokens that end a text."""
        self._ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self._last: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._count(input_ids)
        self._last = scores.float().log_softmax(dim=-1)
        return scores

    def means(self, sequences: torch.Tensor) -> torch.Tensor:
        """`[B]` means, once `sequences` `[B, n]` are whole."""
        self._count(sequences)
        return self._sum / self._n

    def _count(self, ids: torch.Tensor) -> None:
        if self._last is None:
            self._sum, self._n = (torch.zeros(len(ids), device=ids.device) for _ in range(2))
            self._open = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
            return
        chosen = self._last.gather(1, ids[:, -1:])[:, 0]
        self._sum = torch.where(self._open, self._sum + chosen, self._sum)
        self._n += self._open
        for end in self._ends:
            self._open &= ids[:, -1] != end


def _most_tokens(model: Any, longest_s: float) -> int:
    """A bound on the text of `longest_s` of sound, within what the decoder has positions for."""
    names = ("max_target_positions", "max_text_positions", "max_position_embeddings")
    places = [getattr(model.config, name, None) for name in names]
    return min([math.ceil(_TOKENS_PER_S * longest_s) + 8, *(int(n) - 1 for n in places if n)])
