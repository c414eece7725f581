"""Utterances as examples to fit on: text tokens, units in words, cached encoder states; split by speaker, batched by length."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from schemas import Utterance
from transforms.resample import resample
from transforms.taste.aggregator import RATE_HZ
from transforms.taste.decoder import Phones
from transforms.taste.model import TasteTokenizer
from transforms.taste.phones import PhoneReader, Read
from transforms.taste.timing import phone_frames, word_spans
from transforms.taste.words import WordTokens


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance.

    Attributes:
        id: of the utterance. speaker: what is kept together when some are held out. tokens: N subwords of W words.
        phones: of the same words.
        units: int64 `[T]`, of each frame. times: float64 `[W, 2]`, when each word begins and ends, in seconds.
        frames: int64 `[P]`, how many each phone lasts; all 0 until `timed`.
        voice: float32 `[S]`, an embedding of the speaker.
        keys, values: float16 `[T, D]`; 77 MB for each hour of audio and 384 of D, for each of the two.
    """

    id: str
    speaker: str
    tokens: WordTokens
    phones: Read
    units: Tensor
    times: Tensor
    frames: Tensor
    voice: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Batch:
    """B examples, padded at the end.

    Attributes:
        ids, valid: int64 and bool `[B, N]`. word_ids: int64, the word of each valid subword in row order, counted through the
            batch. n_words: words in the batch. phones: of the same words. frames: int64, how many each valid phone lasts.
        keys, values: float32 `[B, T, D]`. heard: bool `[B, T]`. units: int64 `[B, T]`, padded with 0. lengths: int64 `[B]`,
            units of each. voices: float32 `[B, S]`.
    """

    ids: Tensor
    valid: Tensor
    word_ids: Tensor
    n_words: int
    phones: Phones
    frames: Tensor
    keys: Tensor
    values: Tensor
    heard: Tensor
    units: Tensor
    lengths: Tensor
    voices: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        moved = {k: v.to(device) for k, v in self.__dict__.items() if isinstance(v, Tensor)}
        return replace(self, phones=Phones(*(part.to(device) for part in self.phones)), **moved)


Voice = Callable[[Utterance], np.ndarray]
"""Utterance -> float32 `[S]`, an embedding of its speaker."""


def build(
    utterances: Iterable[Utterance],
    model: TasteTokenizer,
    language: str,
    voice: Voice,
    say: Callable[[str], None],
) -> list[Example]:
    """Run the frozen encoder once over all utterances. Those without words or beyond Whisper's windows are left out, and said."""
    examples: list[Example] = []
    read = PhoneReader(language)
    for utterance in utterances:
        if utterance.units is None or utterance.unit_run_lengths is None:
            raise ValueError(f"{utterance.id} ({utterance.source}): no units; run the units stage before fitting TASTE")
        try:
            tokens = model.tokenize(utterance.text)
            model.check(tokens, model.prefix(language))
            if not tokens.words:
                raise ValueError("no words")
            if len(tokens.words) != len(utterance.words):
                raise ValueError(f"{len(tokens.words)} words, but times of {len(utterance.words)}")
            keys, values = model.states(resample(utterance.samples, utterance.rate_hz, RATE_HZ))
        except ValueError as error:
            say(f"left out {utterance.id} ({utterance.source}): {error}")
            continue
        examples.append(
            Example(
                utterance.id,
                str(utterance.given.get("speaker") or utterance.source),
                tokens,
                phones := read(tokens.words),
                torch.from_numpy(np.repeat(utterance.units.astype(np.int64), utterance.unit_run_lengths)),
                torch.tensor([(word.start_s, word.end_s) for word in utterance.words], dtype=torch.float64),
                torch.zeros(len(phones.ids), dtype=torch.long),
                torch.from_numpy(voice(utterance)),
                keys.half().cpu(),
                values.half().cpu(),
            )
        )
        if len(examples) % 500 == 0:
            say(f"encoder states of {len(examples)} utterances")
    return examples


def timed(examples: list[Example], n_units: int, say: Callable[[str], None]) -> list[Example]:
    """The same with the frames of their phones (`transforms.taste.timing`). Those with fewer frames than words are left out, and
    said."""
    kept, spans = [], []
    for e in examples:
        try:
            spans.append(word_spans(e.times[:, 0].tolist(), e.times[:, 1].tolist(), len(e.units)))
            kept.append(e)
        except ValueError as error:
            say(f"left out {e.id}: {error}")
    frames = phone_frames([e.units.numpy() for e in kept], [e.phones for e in kept], spans, n_units)
    return [replace(e, frames=torch.from_numpy(f)) for e, f in zip(kept, frames, strict=True)]


def split(examples: list[Example], heldout_share: float) -> tuple[list[Example], list[Example]]:
    """(training, held out), whole speakers: those whose names' hashes come first, one at least.

    Raises:
        ValueError: fewer than two speakers.
    """
    speakers = {e.speaker for e in examples}
    if len(speakers) < 2:
        raise ValueError(f"{len(speakers)} speakers in {len(examples)} utterances: two at least, to hold one out")
    heldout = heldout_speakers(speakers, heldout_share)
    return [e for e in examples if e.speaker not in heldout], [e for e in examples if e.speaker in heldout]


def heldout_speakers(speakers: Iterable[str], heldout_share: float) -> set[str]:
    """Those whose names' hashes come first, one at least."""
    ordered = sorted(set(speakers), key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(ordered[: max(1, round(heldout_share * len(ordered)))])


def batches(examples: list[Example], size: int) -> list[list[Example]]:
    """In order of length, so that little is padded."""
    ordered = sorted(examples, key=lambda e: len(e.units))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


class Draws:
    """Batches for ever. That of a step follows from the seed and the step alone, so that a fit can go on anywhere."""

    def __init__(self, examples: list[Example], size: int, seed: int) -> None:
        self.examples, self.size, self.seed = examples, size, seed
        self.epoch = -1
        self.groups: list[np.ndarray] = []

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, counted from 0: each epoch drawn anew, examples of about the same length together."""
        per_epoch = -(-len(self.examples) // self.size)
        epoch, index = divmod(step, per_epoch)
        if epoch != self.epoch:
            self.epoch, self.groups = epoch, self._groups(epoch)
        return collate([self.examples[i] for i in self.groups[index]])

    def _groups(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng((self.seed, epoch))
        jitter = 1 + 0.1 * generator.random(len(self.examples))
        order = np.argsort([len(e.units) for e in self.examples] * jitter, kind="stable")
        groups = [order[i : i + self.size] for i in range(0, len(order), self.size)]
        return [groups[i] for i in generator.permutation(len(groups))]


def collate(examples: list[Example]) -> Batch:
    """Pad and stack. Units are padded with 0, which `lengths` tells apart."""

    def pad(tensors: list[Tensor]) -> Tensor:
        return pad_sequence(tensors, batch_first=True)

    first = np.cumsum([0] + [len(e.tokens.words) for e in examples])

    def counted(word_ids: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([ids + at for ids, at in zip(word_ids, first[:-1], strict=True)]))

    ids = [torch.from_numpy(e.tokens.ids) for e in examples]
    phones = [torch.from_numpy(e.phones.ids) for e in examples]
    return Batch(
        ids=pad(ids),
        valid=pad([torch.ones_like(row, dtype=torch.bool) for row in ids]),
        word_ids=counted([e.tokens.word_ids for e in examples]),
        n_words=int(first[-1]),
        phones=Phones(
            pad(phones),
            pad([torch.ones_like(row, dtype=torch.bool) for row in phones]),
            counted([e.phones.word_ids for e in examples]),
        ),
        frames=torch.cat([e.frames for e in examples]),
        keys=pad([e.keys.float() for e in examples]),
        values=pad([e.values.float() for e in examples]),
        heard=pad([torch.ones(len(e.keys), dtype=torch.bool) for e in examples]),
        units=pad([e.units for e in examples]),
        lengths=torch.tensor([len(e.units) for e in examples]),
        voices=torch.stack([e.voice for e in examples]),
    )
