"""Fit the phone classifier on pocketsphinx's alignments of speech with its text."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from schemas import Utterance
from transforms.align.g2p import Lexicon, Phones
from transforms.align.head import MEL_BINS, N_CLASSES, PHONES, STATES, Ears, Head, Network
from transforms.align.placing import emissions
from transforms.align.words import tokens_of
from transforms.options import Options
from transforms.resample import resample
from transforms.units.encoder import parameters_sha256
from transforms.whisper_model import load_whisper

_QUIET = -1.5
"""Log-mel of padding."""
_IGNORED = -100


class FitAlignOptions(Options):
    """How to fit a phone classifier."""

    path: Path
    """The safetensors file to write."""
    data: str
    """The data, its size and its licence in one sentence; written into the file's header."""
    encoder: str = "whisper-tiny"
    """The Whisper checkpoint whose encoder it reads, frozen."""
    layer: int = 3
    """1-based layer of that encoder."""
    width: int = 192
    """Channels."""
    epochs: int = Field(4, ge=1)
    """Passes over the data."""
    learning_rate: float = 1.5e-3
    """Peak learning rate; linear warm-up over 100 steps, cosine decay."""
    batch_frames: int = Field(1600, ge=1)
    """Encoder frames (20 ms) in a batch."""
    heldout_every: int = Field(20, ge=2)
    """One speaker in so many is kept out and measured."""
    seed: int = 0
    """Seed of everything drawn."""


@dataclass
class Example:
    """An utterance as the network hears it.

    Attributes:
        mel: float16 `[2T, 80]`. encoded: float16 `[T, dim]`.
        variants: each token's pronunciations. heldout: whether its speaker is kept out.
        labels: int64 `[2T]`, the class of each frame; None where pocketsphinx found no way through.
    """

    mel: np.ndarray
    encoded: np.ndarray
    variants: list[list[Phones]]
    heldout: bool
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
    """Features, pronunciations and pocketsphinx's labels of every utterance of at most 30 s."""
    ears, lexicon, sphinx = Ears(options.encoder, options.layer), Lexicon(), Sphinx()
    heldout = heldout_speakers(options.heldout_every)
    examples = []
    for utterance in utterances:
        samples = resample(utterance.samples, utterance.rate_hz, 16000)[: 30 * 16000]
        tokens, _ = tokens_of(utterance.text.split())
        variants = lexicon.look_up(tokens, "en")
        if len(samples) < 1600 or not tokens or not all(variants):
            continue
        mel, encoded = ears(samples)
        speaker = str(utterance.given.get("speaker", utterance.source))
        example = Example(mel.half().numpy(), encoded.half().numpy(), variants, heldout(speaker))
        example.labels = sphinx.labels(samples, tokens, variants, len(example.mel))
        examples.append(example)
        if len(examples) % 250 == 0:
            known = sum(e.labels is not None for e in examples)
            say(f"heard {len(examples)} utterances; pocketsphinx aligned {known}")
    return examples


def heldout_speakers(every: int) -> Callable[[str], bool]:
    """Every so manieth speaker, in the order they turn up."""
    order: dict[str, int] = {}
    return lambda speaker: order.setdefault(speaker, len(order)) % every == every - 1


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
    # Weights start from torch's global generator, which is put back as it was.
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = Network(examples[0].encoded.shape[1], options.width)
    random = np.random.default_rng(options.seed)
    train(network, labelled, options, random, say)
    hours = sum(len(e.encoded) for e in labelled) / 50 / 3600
    network.half().float()  # as the file keeps it, so that the figures are those of the file
    frame_error, phone_error_rate = measure(
        network, prior_of(labelled), [e for e in examples if e.heldout] or labelled[:50]
    )
    about = {
        "encoder": options.encoder,
        "encoder_sha256": parameters_sha256(load_whisper(options.encoder).encoder),
        "layer": options.layer,
        "dim": network.norm.normalized_shape[0],
        "width": options.width,
        "data": options.data,
        "recipe": "transforms.align.fit.fit_align",
        "options": options.model_dump(mode="json", exclude={"path", "data", "encoder", "layer", "width"}),
        "heldout_frame_error": round(frame_error, 4),
        "heldout_phone_error_rate": round(phone_error_rate, 4),
    }
    Head(network, prior_of(labelled), about, Ears(options.encoder, options.layer)).save(options.path)
    return FittedHead(options.path, len(labelled), hours, frame_error, phone_error_rate)


def prior_of(examples: Sequence[Example]) -> np.ndarray:
    """How often each class occurs, float32 `[N_CLASSES]`."""
    counts = np.zeros(N_CLASSES)
    for example in examples:
        if example.labels is not None:
            counts += np.bincount(example.labels, minlength=N_CLASSES)
    return (counts / counts.sum()).astype(np.float32)


@torch.inference_mode()
def heard_by(network: Network, example: Example) -> np.ndarray:
    """Log-posteriors `[2T, N_CLASSES]`."""
    mel, encoded = (torch.from_numpy(x.astype(np.float32))[None] for x in (example.mel, example.encoded))
    found: np.ndarray = network(mel, encoded)[0].log_softmax(-1).numpy()
    return found


def train(
    network: Network,
    examples: Sequence[Example],
    options: FitAlignOptions,
    random: np.random.Generator,
    say: Callable[[str], None],
) -> None:
    """Fit in place: cross-entropy of every frame's class, on batches of utterances of similar length."""
    groups = batches([len(e.encoded) for e in examples], options.batch_frames)
    epochs, learning_rate = options.epochs, options.learning_rate
    steps, step = epochs * len(groups), 0
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.02)
    network.train()
    for epoch in range(epochs):
        losses = []
        for g in random.permutation(len(groups)):
            mel, encoded, labels = collate([examples[i] for i in groups[g]])
            optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, (step + 1) / 100) * _decay(step / steps)
            logits = network(blur(mel, random), encoded)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        say(f"epoch {epoch + 1} of {epochs}: {len(examples)} utterances, loss {np.mean(losses):.3f}")
    network.eval()


def _decay(share: float) -> float:
    return 0.5 * (1 + float(np.cos(np.pi * share)))


def batches(lengths: Sequence[int], batch_frames: int) -> list[list[int]]:
    """Indices in groups of similar length, each of about `batch_frames` frames."""
    groups: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups[-1] and (len(groups[-1]) + 1) * lengths[i] > batch_frames:
            groups.append([])
        groups[-1].append(i)
    return groups


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Padded log-mel `[B, 2T, 80]`, encoded `[B, T, dim]`, labels `[B, 2T]`."""
    frames = max(len(e.encoded) for e in examples)
    mel = torch.full((len(examples), 2 * frames, MEL_BINS), _QUIET)
    encoded = torch.zeros(len(examples), frames, examples[0].encoded.shape[1])
    labels = torch.full((len(examples), 2 * frames), _IGNORED)
    for row, example in enumerate(examples):
        mel[row, : len(example.mel)] = torch.from_numpy(example.mel.astype(np.float32))
        encoded[row, : len(example.encoded)] = torch.from_numpy(example.encoded.astype(np.float32))
        labels[row, : len(example.mel)] = torch.from_numpy(example.labels)
    return mel, encoded, labels


def blur(mel: Tensor, random: np.random.Generator) -> Tensor:
    """Other levels, a little noise and, as in SpecAugment (Park et al. 2019), a band of at most 15 bins gone, for each item."""
    shape = (len(mel), 1, 1)
    level = torch.from_numpy(random.normal(0, 0.15, shape).astype(np.float32))
    noise = torch.from_numpy(random.standard_normal(mel.shape, np.float32)) * 0.05
    mel = mel + level + noise
    for row in mel:
        low, width = int(random.integers(0, MEL_BINS)), int(random.integers(0, 16))
        row[:, low : low + width] = row.mean()
    return mel


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


def distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
