"""What the fits of the aligners' heads share: what a network hears of an utterance, how it is fitted, how errors are counted."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from schemas import Utterance
from transforms.align.head import MEL_BINS, Ears, Network
from transforms.options import Options
from transforms.resample import resample

_QUIET = -1.5
"""Log-mel of padding."""

Say = Callable[[str], None]


class FitHeadOptions(Options):
    """How to fit a head on Whisper's encoder."""

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
class Heard:
    """An utterance as the network hears it.

    Attributes:
        mel: float16 `[2T, 80]`. encoded: float16 `[T, dim]`. heldout: whether its speaker is kept out.
    """

    mel: np.ndarray
    encoded: np.ndarray
    heldout: bool


Example = TypeVar("Example", bound=Heard)
Loss = Callable[[Tensor, Sequence[Example]], Tensor]
"""Logits `[B, 2T, C]` and the B examples they belong to -> what to make small."""


def listen(utterances: Iterable[Utterance], options: FitHeadOptions) -> Iterator[tuple[Utterance, np.ndarray, Heard]]:
    """Each utterance of 0.1 s or more with its first 30 s at 16 kHz and what the network hears of them.

    Every `heldout_every`-th speaker is kept out, in the order they turn up.
    """
    ears = Ears(options.encoder, options.layer)
    heldout = heldout_speakers(options.heldout_every)
    for utterance in utterances:
        samples = resample(utterance.samples, utterance.rate_hz, 16000)[: 30 * 16000]
        if len(samples) < 1600:
            continue
        mel, encoded = ears(samples)
        speaker = str(utterance.given.get("speaker", utterance.source))
        yield utterance, samples, Heard(mel.half().numpy(), encoded.half().numpy(), heldout(speaker))


def heldout_speakers(every: int) -> Callable[[str], bool]:
    """Every so manieth speaker, in the order they turn up."""
    order: dict[str, int] = {}
    return lambda speaker: order.setdefault(speaker, len(order)) % every == every - 1


def start(dim: int, options: FitHeadOptions, n_classes: int) -> Network:
    """A network of random weights. They come from torch's global generator, which is put back as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        return Network(dim, options.width, n_classes)


def about(network: Network, ears: Ears, options: FitHeadOptions) -> dict[str, Any]:
    """What a head's header says of its fit."""
    return {
        "encoder": options.encoder,
        "encoder_sha256": ears.sha256,
        "layer": options.layer,
        "dim": network.norm.normalized_shape[0],
        "width": options.width,
        "data": options.data,
        "options": options.model_dump(mode="json", exclude={"path", "data", "encoder", "layer", "width"}),
    }


def train(
    network: Network,
    examples: Sequence[Example],
    options: FitHeadOptions,
    random: np.random.Generator,
    say: Say,
    loss: "Loss[Example]",
) -> None:
    """Fit in place, on batches of utterances of similar length."""
    groups = batches([len(e.encoded) for e in examples], options.batch_frames)
    epochs, learning_rate = options.epochs, options.learning_rate
    steps, step = epochs * len(groups), 0
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.02)
    network.train()
    for epoch in range(epochs):
        losses = []
        for g in random.permutation(len(groups)):
            members = [examples[i] for i in groups[g]]
            mel, encoded = pad(members)
            optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, (step + 1) / 100) * _decay(step / steps)
            value = loss(network(blur(mel, random), encoded), members)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            losses.append(value.item())
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


def pad(examples: Sequence[Heard]) -> tuple[Tensor, Tensor]:
    """Padded log-mel `[B, 2T, 80]` and encoded `[B, T, dim]`."""
    frames = max(len(e.encoded) for e in examples)
    mel = torch.full((len(examples), 2 * frames, MEL_BINS), _QUIET)
    encoded = torch.zeros(len(examples), frames, examples[0].encoded.shape[1])
    for row, example in enumerate(examples):
        mel[row, : len(example.mel)] = torch.from_numpy(example.mel.astype(np.float32))
        encoded[row, : len(example.encoded)] = torch.from_numpy(example.encoded.astype(np.float32))
    return mel, encoded


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


@torch.inference_mode()
def heard_by(network: Network, example: Heard) -> np.ndarray:
    """Log-posteriors `[2T, C]`."""
    mel, encoded = (torch.from_numpy(x.astype(np.float32))[None] for x in (example.mel, example.encoded))
    found: np.ndarray = network(mel, encoded)[0].log_softmax(-1).numpy()
    return found


def distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
