"""Fit the phone classifier on pocketsphinx's alignments of speech with its text."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from schemas import Utterance
from transforms.align.fitting import FitHeadOptions, Heard, about, distance, heard_by, listen, start, train
from transforms.align.g2p import Lexicon, Phones
from transforms.align.head import N_CLASSES, PHONES, STATES, Ears, Head, Network
from transforms.align.placing import emissions
from transforms.align.words import tokens_of

_IGNORED = -100


class FitAlignOptions(FitHeadOptions):
    """How to fit a phone classifier."""


@dataclass
class Example(Heard):
    """An utterance with what it is taught.

    Attributes:
        variants: each token's pronunciations.
        labels: int64 `[2T]`, the class of each frame; None where pocketsphinx found no way through.
    """

    variants: list[list[Phones]]
    labels: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class FittedHead:
    """What was written, and figures from the speakers held out.

    Attributes:
        n_utterances, hours: fitted on. frame_error: share of frames whose phone (or silence) is not that of the alignment.
        phone_error_rate: edit distance of the phones heard without a text, over those of the alignment.
    """

    path: Path
    n_utterances: int
    hours: float
    frame_error: float
    phone_error_rate: float


def fit_align(utterances: Iterable[Utterance], options: FitAlignOptions, say: Callable[[str], None]) -> FittedHead:
    """Hear, label, fit and write to `options.path`. On one machine the same input and options give the same bytes.

    Args:
        utterances: English; read once. Needs samples, text and, to keep speakers apart, `given["speaker"]`.
            An hour takes 200 MB of memory.
        say: told of progress.

    Raises:
        ValueError: no utterance that pocketsphinx could align.
    """
    return fit_examples(hear(utterances, options, say), options, say)


def hear(utterances: Iterable[Utterance], options: FitAlignOptions, say: Callable[[str], None]) -> list[Example]:
    """Features, pronunciations and pocketsphinx's labels of every utterance whose words can be said."""
    lexicon, sphinx = Lexicon(), Sphinx()
    examples = []
    for utterance, samples, heard in listen(utterances, options):
        tokens, _ = tokens_of(utterance.text.split())
        variants = lexicon.look_up(tokens, "en")
        if not tokens or not all(variants):
            continue
        labels = sphinx.labels(samples, tokens, variants, len(heard.mel))
        examples.append(Example(heard.mel, heard.encoded, heard.heldout, variants, labels))
        if len(examples) % 250 == 0:
            known = sum(e.labels is not None for e in examples)
            say(f"heard {len(examples)} utterances; pocketsphinx aligned {known}")
    return examples


class Sphinx:
    """States of pocketsphinx's aligner."""

    def __init__(self) -> None:
        from transforms.align.gmm import make_decoder

        self._decoder = make_decoder(silprob=0.005)  # its own value, with which the embedded classifier was fitted

    def labels(
        self, samples: np.ndarray, tokens: Sequence[str], variants: Sequence[Sequence[Phones]], n_frames: int
    ) -> np.ndarray | None:
        """The class of each frame, int64 `[n_frames]`; None where it finds no way through."""
        for token, options in zip(tokens, variants, strict=True):
            if self._decoder.lookup_word(token) is None:
                self._decoder.add_word(token, " ".join(options[0]), True)
        pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        labels = np.zeros(n_frames + 1, np.int64)
        try:
            self._decoder.set_align_text(" ".join(tokens))
            self._run(pcm)
            self._decoder.set_alignment()  # states are found in a second pass, within the words of the first
            self._run(pcm)
            said = 0
            for word in self._decoder.get_alignment() or ():
                if word.name.startswith(("<", "[", "+")):
                    continue
                said += 1
                for phone in word:
                    for i, state in enumerate(phone):
                        # Its frame u is frame u + 1 here: see phones.SHIFT_S.
                        begin = state.start + 1
                        labels[begin : begin + state.duration] = 1 + STATES * PHONES.index(phone.name) + i
        except RuntimeError:
            return None
        return labels[:n_frames] if said == len(tokens) else None

    def _run(self, pcm: bytes) -> None:
        self._decoder.reinit_feat()  # or its noise estimate would depend on what was aligned before
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()


def fit_examples(examples: Sequence[Example], options: FitAlignOptions, say: Callable[[str], None]) -> FittedHead:
    """All that follows hearing; see `fit_align`."""
    labelled = [e for e in examples if e.labels is not None and not e.heldout]
    if not labelled:
        raise ValueError(f"none of {len(examples)} utterances could be aligned, so there is nothing to fit on")
    network = start(examples[0].encoded.shape[1], options, N_CLASSES)
    random = np.random.default_rng(options.seed)
    train(network, labelled, options, random, say, wrong_classes)
    hours = sum(len(e.encoded) for e in labelled) / 50 / 3600
    network.half().float()  # as the file keeps it, so that the figures are those of the file
    frame_error, phone_error_rate = measure(
        network, prior_of(labelled), [e for e in examples if e.heldout] or labelled[:50]
    )
    ears = Ears(options.encoder, options.layer)
    found = about(network, ears, options) | {
        "recipe": "transforms.align.fit.fit_align",
        "heldout_frame_error": round(frame_error, 4),
        "heldout_phone_error_rate": round(phone_error_rate, 4),
    }
    Head(network, prior_of(labelled), found, ears).save(options.path)
    return FittedHead(options.path, len(labelled), hours, frame_error, phone_error_rate)


def prior_of(examples: Sequence[Example]) -> np.ndarray:
    """How often each class occurs, float32 `[N_CLASSES]`."""
    counts = np.zeros(N_CLASSES)
    for example in examples:
        if example.labels is not None:
            counts += np.bincount(example.labels, minlength=N_CLASSES)
    return (counts / counts.sum()).astype(np.float32)


def wrong_classes(logits: Tensor, examples: Sequence[Example]) -> Tensor:
    """Cross-entropy of every frame's class. Logits `[B, 2T, N_CLASSES]`."""
    labels = torch.full(logits.shape[:2], _IGNORED)
    for row, example in enumerate(examples):
        labels[row, : len(example.mel)] = torch.from_numpy(example.labels)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED, label_smoothing=0.05)


def measure(network: Network, prior: np.ndarray, examples: Sequence[Example]) -> tuple[float, float]:
    """(share of wrong frames, phone error rate) against the examples' labels."""
    wrong = total = edits = said = 0
    for example in examples:
        if example.labels is None:
            continue
        log_posteriors = heard_by(network, example)
        phones = (log_posteriors.argmax(axis=1) + STATES - 1) // STATES
        wrong += int((phones != (example.labels + STATES - 1) // STATES).sum())
        total += len(phones)
        reference = collapse(example.labels)
        edits += distance(phones_heard(log_posteriors, prior), reference)
        said += len(reference)
    return wrong / max(1, total), edits / max(1, said)


def collapse(labels: np.ndarray) -> list[int]:
    """Classes -> phones, silence left out. A phone begins where its first state does, or where the phone changes."""
    phones, states = (labels + STATES - 1) // STATES, (labels - 1) % STATES
    new = np.ones(len(labels), bool)
    new[1:] = (phones[1:] != phones[:-1]) | ((states[1:] == 0) & (states[:-1] != 0))
    return phones[new & (labels > 0)].tolist()


def phones_heard(log_posteriors: np.ndarray, prior: np.ndarray, leave: float = -2.0) -> list[int]:
    """The likeliest row of phones, any after any: Viterbi over a loop of three states a phone, `leave` for each new phone."""
    scores = emissions(log_posteriors, prior)[:, :N_CLASSES].astype(np.float64)
    first = np.array([0, *range(1, N_CLASSES, STATES)])
    last = np.array([0, *range(STATES, N_CLASSES, STATES)])
    inner = np.setdiff1d(np.arange(N_CLASSES), first)
    best = np.full(N_CLASSES, -np.inf)
    best[first] = scores[0, first]
    back = np.zeros((len(scores), N_CLASSES), np.int64)
    for t in range(1, len(scores)):
        come = np.full(N_CLASSES, -np.inf)
        origin = np.zeros(N_CLASSES, np.int64)
        come[inner], origin[inner] = best[inner - 1], inner - 1
        exit_ = int(last[best[last].argmax()])
        come[first], origin[first] = best[exit_] + leave, exit_
        stay = best >= come
        back[t] = np.where(stay, np.arange(N_CLASSES), origin)
        best = np.where(stay, best, come) + scores[t]
    state = int(last[best[last].argmax()])
    path = np.empty(len(scores), np.int64)
    for t in range(len(scores) - 1, -1, -1):
        path[t] = state
        state = int(back[t, state])
    return collapse(path)
