"""Blocks made for tests of what comes after the models: rows with every column filled."""

import numpy as np

from schemas import Block, Label, Reason, Tokenizer, Utterance, Word
from schemas.utterance import Span

UNITS = Tokenizer("units", "test-units", "u" * 64, 16000, 320, (500,), "floor", 80)
CODEC = Tokenizer("codec", "test-codec", "c" * 64, 16000, 320, (1024,) * 4, "ceil")
TASTE = Tokenizer("taste", "test-taste", "t" * 64, 16000, 0, (512,) * 4, "word")


def utterance(number: int, words: str = "one two three", seconds: float = 2.0) -> Utterance:
    """An utterance whose content follows from its number alone."""
    random = np.random.default_rng(number)
    n = int(seconds * 16000)
    start = number * 16000 * 40
    made = Utterance(
        f"talk-{number:03d}.wav", -1, start, start + n, random.uniform(-0.5, 0.5, n).astype(np.float32), 16000
    )
    made.language = "en"
    made.split = "heldout" if number % 5 == 0 else "train"
    made.text = words
    spoken = words.split()
    step = seconds / max(1, len(spoken))
    made.words = [Word(word, i * step, (i + 1) * step, 0.9, "gmm") for i, word in enumerate(spoken)]
    made.unit_run_lengths = np.full(UNITS.n_frames(n) // 3, 3)
    made.units = np.arange(len(made.unit_run_lengths)) * 7 % 500
    made.codec_codes = random.integers(0, 1024, (4, CODEC.n_frames(n)))
    made.taste_codes = random.integers(0, 512, (len(spoken), 4))
    made.taste_latents = random.standard_normal((len(spoken), 8)).astype(np.float16)
    made.speaker_embedding = (random.uniform(0, 1, 256) / 16).astype(np.float32)
    made.overlaps = [Span(0.25, 0.5), Span(0.75, 1.0)]
    made.labels = [Label("emotion", "calm", 0.75), Label("sound", "speech", 0.5)]
    made.columns = {"asr_avg_logprob": -0.25, "asr_model": "test", "quality_snr_db": 20.0, "speaker": f"s{number % 3}"}
    return made


def block(index: int = 0, count: int = 3) -> Block:
    """A Block of `count` utterances and one rejected stretch, seconds conserved."""
    made = Block(index, 16000, tokenizers={card.kind: card for card in (UNITS, CODEC, TASTE)})
    made.utterances = [utterance(index * 100 + i) for i in range(count)]
    lost = utterance(index * 100 + count)
    made.reject(lost, "filter", Reason.UNSURE, "avg_logprob -1.50 < -1.00")
    made.samples_in = sum(u.end - u.start for u in [*made.utterances, lost])
    made.stage_s = {"decode": 0.5}
    return made
