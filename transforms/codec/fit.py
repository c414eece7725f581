"""Fit the mel codec: reconstruct log-mel crops through the quantiser."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from schemas import Utterance
from transforms.codec import melspec
from transforms.codec.mel import save_network
from transforms.codec.network import STACK, MelCodecNetwork
from transforms.options import Options
from transforms.resample import resample

_HELDOUT_EVERY = 40
"""One utterance in so many, by its id, is kept out of fitting and measured."""


class FitCodecOptions(Options):
    """How to fit a mel codec."""

    path: Path
    """The safetensors file to write."""
    data: str
    """The data, its size and its licence in one sentence; written into the file's header."""
    levels: int = 4
    """Codebooks."""
    size: int = 1024
    """Codes in each."""
    steps: int = 4000
    """Steps in all."""
    steps_plain: int = 300
    """Steps before the codebooks are set by k-means; until then nothing is quantised."""
    batch: int = 16
    """Crops in a step."""
    crop_frames: int = 64
    """Codec frames in a crop; 64 are 1.5 s."""
    learning_rate: float = 2e-3
    """Peak learning rate; linear warm-up over 100 steps, cosine decay."""
    commitment_weight: float = 0.25
    """Weight of the distance between the encoder's vectors and their codes."""
    log_every: int = 100
    """Steps between two lines of progress."""
    seed: int = 0
    """Seed of everything drawn."""


@dataclass(frozen=True, slots=True)
class FittedCodec:
    """What was written, and figures from the utterances held out.

    Attributes:
        n_utterances: fitted on. hours: of them.
        error: mean absolute error of log-mel, natural logarithm; 0.12 is about 1 dB.
        used: codes of each codebook that occur.
    """

    path: Path
    n_utterances: int
    hours: float
    error: float
    used: tuple[int, ...]


def fit_codec(utterances: Iterable[Utterance], options: FitCodecOptions, say: Callable[[str], None]) -> FittedCodec:
    """Fit a mel codec and write it to `options.path`. On one machine the same input and options give the same bytes.

    Args:
        utterances: read once, their log-mels kept in memory: 50 MB an hour. Need samples only.
        say: told of progress.

    Raises:
        ValueError: no utterance, or none as long as a crop.
    """
    fitted, heldout = log_mels(utterances, say)
    crops = [mel for mel in fitted if mel.shape[1] > options.crop_frames * STACK]
    if not crops:
        raise ValueError(
            f"{len(fitted)} utterances, none of them longer than a crop of {options.crop_frames} codec frames"
        )
    # Weights start from torch's global generator, which is put back as it was.
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = MelCodecNetwork(levels=options.levels, size=options.size)
    frames = torch.cat([mel.float() for mel in fitted], dim=1)
    network.mean.copy_(frames.mean(1))
    network.deviation.copy_(frames.std(1))
    train(network, crops, options, say)
    hours = frames.shape[1] * melspec.HOP / melspec.RATE_HZ / 3600
    save_network(
        network,
        options.path,
        {"data": options.data, "options": options.model_dump(mode="json", exclude={"path", "data"})},
    )
    error, used = measure(network.eval(), heldout or fitted[:50])
    return FittedCodec(options.path, len(fitted), hours, error, used)


def log_mels(utterances: Iterable[Utterance], say: Callable[[str], None]) -> tuple[list[Tensor], list[Tensor]]:
    """(to fit on, held out): float16 `[80, 2T]` each. Those shorter than a codec frame are left out."""
    fitted: list[Tensor] = []
    heldout: list[Tensor] = []
    for utterance in utterances:
        samples = resample(utterance.samples, utterance.rate_hz, melspec.RATE_HZ)
        whole = len(samples) // (STACK * melspec.HOP) * STACK * melspec.HOP
        if not whole:
            continue
        mel = melspec.log_mel(torch.from_numpy(samples[:whole])).half()
        (fitted if int(utterance.id, 16) % _HELDOUT_EVERY else heldout).append(mel)
        if (len(fitted) + len(heldout)) % 500 == 0:
            say(f"log-mels of {len(fitted) + len(heldout)} utterances")
    return fitted, heldout


def train(network: MelCodecNetwork, mels: list[Tensor], options: FitCodecOptions, say: Callable[[str], None]) -> None:
    """Fit in place: first without quantiser, then codebooks from k-means, which follow the encoder from there on."""
    generator = torch.Generator().manual_seed(options.seed)
    lengths = np.array([mel.shape[1] for mel in mels], dtype=np.float64)
    shares = torch.from_numpy(lengths / lengths.sum())
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    network.train()
    started, errors = time.perf_counter(), []
    for step in range(1, options.steps + 1):
        batch = torch.stack(
            [_crop(mels[i], options.crop_frames, generator) for i in _draw(shares, options.batch, generator)]
        )
        latent = network.latent(batch)
        flat = latent.flatten(0, 1)
        if step <= options.steps_plain:
            quantised, commitment = (
                network.quantiser.project_out(network.quantiser.project_in(flat)),
                flat.new_zeros(()),
            )
        else:
            quantised, _, commitment = network.quantiser(flat, generator)
        difference = (network.restore(quantised.view_as(latent)) - batch) / network.deviation[:, None]
        # Absolute error keeps edges sharp, squared error large deviations away.
        loss = difference.abs().mean() + 0.5 * difference.square().mean() + options.commitment_weight * commitment
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        errors.append(float((difference.detach().abs() * network.deviation[:, None]).mean()))
        if step == options.steps_plain:
            seen = [
                _crop(mels[i], options.crop_frames, generator) for i in _draw(shares, 20 * options.batch, generator)
            ]
            with torch.no_grad():
                network.quantiser.initialise(network.latent(torch.stack(seen)).flatten(0, 1), generator)
        if step % options.log_every == 0:
            rate = step / (time.perf_counter() - started)
            say(
                f"step {step} of {options.steps}  error {np.mean(errors):.3f}  {(options.steps - step) / rate / 60:.1f} min left"
            )
            errors.clear()


@torch.inference_mode()
def measure(network: MelCodecNetwork, mels: list[Tensor]) -> tuple[float, tuple[int, ...]]:
    """(mean absolute error of log-mel, codes in use by codebook) over whole utterances."""
    total, count = 0.0, 0
    codes = []
    for mel in mels:
        codes.append(network.encode(mel.float()))
        total += float(F.l1_loss(network.decode(codes[-1]), mel.float(), reduction="sum"))
        count += mel.numel()
    return total / count, tuple(len(row.unique()) for row in torch.cat(codes, dim=1))


def _draw(shares: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Indices of utterances, each as likely as it is long."""
    return torch.multinomial(shares, count, replacement=True, generator=generator).tolist()


def _crop(mel: Tensor, n_frames: int, generator: torch.Generator) -> Tensor:
    """float32 `[80, 2 n_frames]` out of `[80, M]`, from anywhere in it."""
    start = int(torch.randint(0, mel.shape[1] - n_frames * STACK + 1, (1,), generator=generator))
    return mel[:, start : start + n_frames * STACK].float()


def _rate(step: int, steps: int) -> float:
    """The learning rate's factor: linear warm-up over 100 steps, cosine to 2 % of the peak."""
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
