"""Fit a head of letters by CTC on speech with its text: any script whose letters are named, no dictionary."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from schemas import Utterance
from transforms.align.chars import FLOOR, KIND, PRIOR_WEIGHT
from transforms.align.fitting import FitHeadOptions, Heard, about, distance, heard_by, listen, start, train
from transforms.align.g2p import pronounce
from transforms.align.head import PHONES, Ears, Head, Network
from transforms.align.letters import spell
from transforms.align.words import spoken

_FRAMES_A_S = 100
_KEPT = 0.98
"""Share of the running frequency of the letters that stays from one batch to the next."""


class FitCharsOptions(FitHeadOptions):
    """How to fit a head of letters."""

    alphabet: str = Field("abcdefghijklmnopqrstuvwxyz'", min_length=1)
    """Its letters, in lower case. What else is written is romanised (Unidecode)."""
    epochs: int = Field(4, ge=1)
    """Passes over the data."""
    spread_steps: int = Field(120, ge=0)
    """Batches at the start in which each word's letters are taught to lie evenly over its time in the corpus, so that the blank
    does not take all frames."""


@dataclass
class Example(Heard):
    """An utterance with what it is taught.

    Attributes:
        spans: (letters as classes, start_s, end_s) of its words, those without letters left out.
        spread: int64 `[2T]`, the class of each frame where letters lie evenly in their words.
    """

    spans: list[tuple[list[int], float, float]]
    spread: np.ndarray = field(repr=False)

    @property
    def letters(self) -> list[int]:
        return [i for ids, *_ in self.spans for i in ids]


@dataclass(frozen=True)
class FittedChars:
    """What was written, and figures from the speakers held out.

    Attributes:
        n_utterances, hours: fitted on.
        character_error_rate: edit distance of the letters heard without a text, over those of the text; spaces do not count.
        sound_error_rate: the same of phones: espeak-ng reads each word, as it is heard and as it is written, by English rules.
    """

    path: Path
    n_utterances: int
    hours: float
    character_error_rate: float
    sound_error_rate: float


def fit_chars(utterances: Iterable[Utterance], options: FitCharsOptions, say: Callable[[str], None]) -> FittedChars:
    """Hear, fit and write to `options.path`. On one machine the same input and options give the same bytes.

    The loss is CTC with the letters' own frequency divided out, so that the blank is no cheaper than a letter and letters
    last as long as they sound (Huang et al. 2024, "Less Peaky and More Accurate CTC Forced Alignment by Label Priors").

    Args:
        utterances: read once. Needs samples, text, words with their times and, to keep speakers apart, `given["speaker"]`.
            An hour takes 200 MB of memory.
        say: told of progress.

    Raises:
        ValueError: no utterance whose letters fit its frames.
    """
    examples = hear(utterances, options, say)
    kept = [e for e in examples if not e.heldout]
    if not kept:
        raise ValueError(
            f"none of {len(examples)} utterances can be fitted on: no text in these letters, or too little sound"
        )
    network = start(kept[0].encoded.shape[1], options, 1 + len(options.alphabet))
    loss = CtcWithoutPrior(1 + len(options.alphabet), options.spread_steps)
    train(network, kept, options, np.random.default_rng(options.seed), say, loss)
    network.half().float()  # as the file keeps it, so that the figures are those of the file
    prior = prior_of(network, kept[:: max(1, len(kept) // 200)])
    rates = measure(network, prior, [e for e in examples if e.heldout] or kept[:50], options.alphabet)
    ears = Ears(options.encoder, options.layer)
    found = about(network, ears, options) | {
        "kind": KIND,
        "alphabet": options.alphabet,
        "recipe": "transforms.align.fit_chars.fit_chars",
        "heldout_character_error_rate": round(rates[0], 4),
        "heldout_sound_error_rate": round(rates[1], 4),
    }
    Head(network, prior, found, ears).save(options.path)
    hours = sum(len(e.encoded) for e in kept) / 50 / 3600
    return FittedChars(options.path, len(kept), hours, *rates)


def hear(utterances: Iterable[Utterance], options: FitCharsOptions, say: Callable[[str], None]) -> list[Example]:
    """Features and letters of every utterance whose letters fit its frames."""
    index = {letter: 1 + i for i, letter in enumerate(options.alphabet)}
    examples = []
    for utterance, _, heard in listen(utterances, options):
        spans = []
        for word in utterance.words:
            ids = spell("".join(spoken(word.text, utterance.language or "en")), index)
            if ids:
                spans.append((ids, word.start_s, word.end_s))
        example = Example(heard.mel, heard.encoded, heard.heldout, spans, spread(spans, len(heard.mel)))
        repeats = sum(a == b for a, b in itertools.pairwise(example.letters))
        if not spans or len(example.letters) + repeats > len(heard.mel):
            continue
        examples.append(example)
        if len(examples) % 250 == 0:
            say(f"heard {len(examples)} utterances")
    return examples


def spread(spans: Sequence[tuple[Sequence[int], float, float]], n_frames: int) -> np.ndarray:
    """(letters, start_s, end_s) of words -> each frame's class, int64 `[n_frames]`: 0 between words, letters evenly in them."""
    labels = np.zeros(n_frames, np.int64)
    for ids, start_s, end_s in spans:
        begin = round(start_s * _FRAMES_A_S)
        length = max(1, round(end_s * _FRAMES_A_S) - begin)
        if ids:
            own = np.asarray(ids)[np.arange(length) * len(ids) // length]
            labels[begin : begin + length] = own[: max(0, n_frames - begin)]
    return labels


class CtcWithoutPrior:
    """The loss, which learns the classes' frequency as it goes.

    `F.ctc_loss` takes its scores to be normalised when it derives; divided by frequencies they are not. So it is asked how often
    each frame is in each class, over all ways that spell the text, and the network is taught those shares: that is the gradient
    of CTC on the scores, whatever their sum.
    """

    def __init__(self, n_classes: int, spread_steps: int) -> None:
        self._prior = torch.full((n_classes,), 1 / n_classes)
        self._spread_left = spread_steps

    def __call__(self, logits: Tensor, examples: Sequence[Example]) -> Tensor:
        """Logits `[B, 2T, C]` -> cross-entropy of a frame."""
        log_probs = logits.log_softmax(-1)
        lengths = torch.tensor([len(e.mel) for e in examples])
        mask = torch.arange(logits.shape[1])[None] < lengths[:, None]
        share = log_probs.detach().exp()[mask].mean(dim=0)
        self._prior = _KEPT * self._prior + (1 - _KEPT) * share
        if self._spread_left > 0:
            self._spread_left -= 1
            labels = torch.from_numpy(np.concatenate([e.spread for e in examples]))
            return F.nll_loss(log_probs[mask], labels)
        targets = occupancy(log_probs.detach() - PRIOR_WEIGHT * torch.log(self._prior + FLOOR), lengths, examples)
        return -(targets * log_probs)[mask].sum(dim=1).mean()


def occupancy(scores: Tensor, lengths: Tensor, examples: Sequence[Example]) -> Tensor:
    """How surely each frame is in each class, over all CTC ways that spell the letters: `[B, 2T, C]`, 0 beyond an item's length."""
    scores = scores.requires_grad_()
    letters = torch.tensor([i for e in examples for i in e.letters])
    counts = torch.tensor([len(e.letters) for e in examples])
    nll = F.ctc_loss(scores.transpose(0, 1), letters, lengths, counts, reduction="sum", zero_infinity=True)
    (gradient,) = torch.autograd.grad(nll, scores)
    mask = torch.arange(scores.shape[1])[None] < lengths[:, None]
    # What it gives is exp(score) - occupancy: right for the logits of normalised scores.
    return (scores.detach().exp() - gradient) * mask[..., None]


def prior_of(network: Network, examples: Sequence[Example]) -> np.ndarray:
    """How often the network hears each class, float32 `[C]`."""
    heard = np.concatenate([np.exp(heard_by(network, example)) for example in examples])
    return heard.mean(axis=0).astype(np.float32)


def measure(network: Network, prior: np.ndarray, examples: Sequence[Example], alphabet: str) -> tuple[float, float]:
    """(character error rate, sound error rate); see `FittedChars`."""
    edits = said = 0
    pairs: list[tuple[str, str]] = []
    for example in examples:
        states = likeliest(heard_by(network, example) - PRIOR_WEIGHT * np.log(prior + FLOOR))
        begins = np.flatnonzero((states != 0) & (states != np.concatenate([[0], states[:-1]])))
        edits += distance(states[begins].tolist(), example.letters)
        said += len(example.letters)
        middles = [_FRAMES_A_S * (a[2] + b[1]) / 2 for a, b in itertools.pairwise(example.spans)]
        word_of = np.searchsorted(middles, begins)
        for i, (ids, *_) in enumerate(example.spans):
            own = states[begins[word_of == i]].tolist()
            pairs.append(("".join(alphabet[j - 1] for j in own), "".join(alphabet[j - 1] for j in ids)))
    phones = pronounce(sorted({word for pair in pairs for word in pair if word}))
    wrong = sum(distance(*(_numbers(phones.get(word, "")) for word in pair)) for pair in pairs)
    return edits / said, wrong / max(1, sum(len(_numbers(phones.get(right, ""))) for _, right in pairs))


def likeliest(scores: np.ndarray, leave: float = -2.0) -> np.ndarray:
    """The likeliest class of each frame of `[T, C]`, int64 `[T]`: Viterbi, any class after any, `leave` for each change."""
    best = scores[0].astype(np.float64)
    back = np.zeros(scores.shape, np.int64)
    for t in range(1, len(scores)):
        come, origin = best.max() + leave, int(best.argmax())
        back[t] = np.where(best >= come, np.arange(len(best)), origin)
        best = np.maximum(best, come) + scores[t]
    states = np.empty(len(scores), np.int64)
    state = int(best.argmax())
    for t in range(len(scores) - 1, -1, -1):
        states[t] = state
        state = int(back[t, state])
    return states


def _numbers(phones: str) -> list[int]:
    return [PHONES.index(phone) for phone in phones.split()]
