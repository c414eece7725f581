"""Utterances as examples to fit on: text tokens, units and cached encoder states; split by speaker, batched by length."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from schemas import Utterance
from transforms.resample import resample
from transforms.taste.aggregator import RATE_HZ
from transforms.taste.model import TasteTokenizer
from transforms.taste.words import WordTokens


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance.

    Attributes:
        speaker: what is kept together when some are held out. tokens: N subwords of W words.
        units, runs: int64 `[M]`. keys, values: float16 `[T, D]`; 77 MB for each hour of audio and 384 of D, for each of the two.
    """

    speaker: str
    tokens: WordTokens
    units: Tensor
    runs: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Batch:
    """B examples, padded at the end.

    Attributes:
        ids, valid: int64 and bool `[B, N]`. word_ids: int64, the word of each valid subword in row order, counted through the
            batch. n_words: words in the batch.
        keys, values: float32 `[B, T, D]`. heard: bool `[B, T]`. units, runs: int64 `[B, M]`. lengths: int64 `[B]`.
    """

    ids: Tensor
    valid: Tensor
    word_ids: Tensor
    n_words: int
    keys: Tensor
    values: Tensor
    heard: Tensor
    units: Tensor
    runs: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return replace(self, **{k: v.to(device) for k, v in self.__dict__.items() if isinstance(v, Tensor)})


def build(
    utterances: Iterable[Utterance], model: TasteTokenizer, language: str, say: Callable[[str], None]
) -> list[Example]:
    """Run the frozen encoder once over all utterances. Those without words or beyond Whisper's windows are left out, and said."""
    examples: list[Example] = []
    for utterance in utterances:
        if utterance.units is None or utterance.unit_run_lengths is None:
            raise ValueError(f"{utterance.id} ({utterance.source}): no units; run the units stage before fitting TASTE")
        try:
            tokens = model.tokenize(utterance.text)
            model.check(tokens, model.prefix(language))
            if not tokens.words:
                raise ValueError("no words")
            keys, values = model.states(resample(utterance.samples, utterance.rate_hz, RATE_HZ))
        except ValueError as error:
            say(f"left out {utterance.id} ({utterance.source}): {error}")
            continue
        speaker = str(utterance.given.get("speaker") or utterance.source)
        units, runs = torch.from_numpy(utterance.units).long(), torch.from_numpy(utterance.unit_run_lengths).long()
        examples.append(Example(speaker, tokens, units, runs, keys.half().cpu(), values.half().cpu()))
        if len(examples) % 500 == 0:
            say(f"encoder states of {len(examples)} utterances")
    return examples


def split(examples: list[Example], heldout_share: float) -> tuple[list[Example], list[Example]]:
    """(training, held out), whole speakers: those whose names' hashes come first, one at least.

    Raises:
        ValueError: fewer than two speakers.
    """
    speakers = sorted({e.speaker for e in examples}, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(speakers) < 2:
        raise ValueError(f"{len(speakers)} speakers in {len(examples)} utterances: two at least, to hold one out")
    heldout = set(speakers[: max(1, round(heldout_share * len(speakers)))])
    return [e for e in examples if e.speaker not in heldout], [e for e in examples if e.speaker in heldout]


def batches(examples: list[Example], size: int) -> list[list[Example]]:
    """In order of length, so that little is padded."""
    ordered = sorted(examples, key=lambda e: len(e.units))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def endless(examples: list[Example], size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Batches for ever, drawn anew each epoch: examples of about the same length together, in random order."""
    jitter = 0.1
    while True:
        noise = torch.rand(len(examples), generator=generator)
        order = np.argsort([len(e.units) * (1 + jitter * float(n)) for e, n in zip(examples, noise, strict=True)])
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        for index in torch.randperm(len(groups), generator=generator).tolist():
            yield collate([examples[i] for i in groups[index]])


def collate(examples: list[Example]) -> Batch:
    """Pad and stack. Units are padded with 0, which `lengths` tells apart."""

    def pad(tensors: list[Tensor]) -> Tensor:
        return pad_sequence(tensors, batch_first=True)

    first = np.cumsum([0] + [len(e.tokens.words) for e in examples])
    word_ids = np.concatenate([e.tokens.word_ids + start for e, start in zip(examples, first[:-1], strict=True)])
    return Batch(
        ids=pad([torch.from_numpy(e.tokens.ids) for e in examples]),
        valid=pad([torch.ones(len(e.tokens.ids), dtype=torch.bool) for e in examples]),
        word_ids=torch.from_numpy(word_ids),
        n_words=int(first[-1]),
        keys=pad([e.keys.float() for e in examples]),
        values=pad([e.values.float() for e in examples]),
        heard=pad([torch.ones(len(e.keys), dtype=torch.bool) for e in examples]),
        units=pad([e.units for e in examples]),
        runs=pad([e.runs for e in examples]),
        lengths=torch.tensor([len(e.units) for e in examples]),
    )
