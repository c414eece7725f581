"""What a recogniser reads off the sound that a vocoder makes of a log-mel, foretold without making the sound.

A codec has to be understood after the vocoder, but to run one in every step takes many times as long as all the rest of a fit. So a
small network stands in its place while a codec is fitted: it learns from vocoded crops what their log-mel is in Whisper's windows,
which are shorter than HiFi-GAN's and at another rate.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from transforms.codec import melspec
from transforms.codec.network import Block
from transforms.resample import resample
from transforms.schedule import warm_cosine

RATE_HZ = 16000
_N_FFT, _HOP = 400, 160
_OFFSET = 0.64
"""Whisper's log10 of power less twice HiFi-GAN's log10 of magnitude: windows of 400 and 1,024 samples. Median over speech."""

_HELDOUT_EVERY = 20
"""One vocoded crop in so many is kept out, to say how well the others' sound is foretold."""

_BATCH, _LEARNING_RATE = 16, 2e-3


class VocodedCrops(NamedTuple):
    """Log-mels float16 `[N, 80, M]`, and what Whisper reads off their sound: log10 of power, float16 `[N, 80, T]`."""

    mels: Tensor
    powers: Tensor


def n_samples(n_mel_frames: int) -> int:
    """Samples at 16 kHz of so many mel frames, the last one's fraction left out."""
    return n_mel_frames * melspec.HOP * RATE_HZ // melspec.RATE_HZ


def log_power(sounds: Tensor) -> Tensor:
    """float32 `[B, n]` at 16 kHz -> Whisper's log-mel before it is scaled, log10 of power: `[B, 80, n // 160]`."""
    spectrum = torch.stft(sounds, _N_FFT, _HOP, window=torch.hann_window(_N_FFT), return_complex=True)[..., :-1]
    return (_filters() @ spectrum.abs().square()).clamp(min=1e-10).log10()


@lru_cache(maxsize=1)
def _filters() -> Tensor:
    from whisper.audio import mel_filters

    return mel_filters("cpu", melspec.N_MELS)


def scaled(power: Tensor) -> Tensor:
    """`[B, 80, T]` as Whisper's encoder gets it: nothing 80 dB under an item's loudest value, (x + 4) / 4."""
    loudest = power.detach().amax((1, 2), keepdim=True)
    return (torch.maximum(power, loudest - 8.0) + 4.0) / 4.0


class VocodedMel(nn.Module):
    """Log-mel `[B, 80, M]` -> log10 of power in Whisper's frames, `[B, 80, n_samples(M) // 160]`, of what a vocoder makes of it.

    Each of Whisper's frames is read off the two mel frames around it, in a line, and convolutions add what the vocoder does.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int = 256, n_blocks: int = 5, kernel: int = 5) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(melspec.N_MELS))
        self.register_buffer("deviation", torch.ones(melspec.N_MELS))
        self.enter = nn.Conv1d(2 * melspec.N_MELS + 3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width, 2, kernel) for _ in range(n_blocks)))
        self.leave = nn.Conv1d(width, melspec.N_MELS, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, log_mel: Tensor) -> Tensor:
        left, share = _places(log_mel.shape[-1])
        before, after = log_mel[..., left], log_mel[..., (left + 1).clamp(max=log_mel.shape[-1] - 1)]
        straight = torch.lerp(before, after, share) * (2 / math.log(10)) + _OFFSET
        # Where between the two it stands decides which part of a window the vocoder's detail falls into.
        place = torch.stack([share, (2 * math.pi * share).cos(), (2 * math.pi * share).sin()])
        normal = [(x - self.mean[:, None]) / self.deviation[:, None] for x in (before, after)]
        given = torch.cat([*normal, place.expand(len(log_mel), -1, -1)], dim=1)
        return straight + self.leave(self.blocks(self.enter(given)))


def _places(n_mel_frames: int) -> tuple[Tensor, Tensor]:
    """Of each of Whisper's frames the mel frame before it, int64 `[T]`, and how far it is on the way to the next, float32 `[T]`.

    Whisper's frame j is centred on sample 160 j of 16 kHz, mel frame i on sample 256 i + 128 of 22.05 kHz.
    """
    times_s = torch.arange(n_samples(n_mel_frames) // _HOP, dtype=torch.float64) * _HOP / RATE_HZ
    at = (times_s * melspec.RATE_HZ / melspec.HOP - 0.5).clamp(min=0)
    left = at.long()
    return left, (at - left).float()


@torch.no_grad()
def vocode(mels: Tensor, vocoder: Callable[[Tensor], Tensor], say: Callable[[str], None]) -> VocodedCrops:
    """Make the sound of log-mels `[N, 80, M]`, kept as float16, one after the other."""
    mels = mels.half()
    length = n_samples(mels.shape[-1]) // _HOP
    powers = []
    for mel in mels:
        sound = torch.from_numpy(resample(vocoder(mel.float()).numpy(), melspec.RATE_HZ, RATE_HZ))
        powers.append(log_power(sound[None])[0, :, :length].half())
        if len(powers) % 500 == 0:
            say(f"vocoded {len(powers)} of {len(mels)} crops")
    return VocodedCrops(mels, torch.stack(powers))


def fit_vocoded(crops: VocodedCrops, steps: int, seed: int, bfloat16: bool, say: Callable[[str], None]) -> VocodedMel:
    """A network fitted to the crops, frozen; says how far it is from those kept out, in bels, and how far a straight line is."""
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=bfloat16)
    generator = torch.Generator().manual_seed(seed)
    kept_out = torch.arange(len(crops.mels)) % _HELDOUT_EVERY == _HELDOUT_EVERY - 1
    mels, powers = crops.mels[~kept_out], crops.powers[~kept_out]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = VocodedMel()
    network.mean.copy_(mels.float().mean((0, 2)))
    network.deviation.copy_(mels.float().std((0, 2)))
    before = _error(network, crops, kept_out)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
    for _ in range(steps):
        drawn = torch.randint(len(mels), (_BATCH,), generator=generator)
        with autocast():
            foretold = network(mels[drawn].float())
        difference = scaled(foretold.float()) - scaled(powers[drawn].float())
        optimizer.zero_grad()
        (difference.abs() + 2 * difference.square()).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)
    if kept_out.any():
        after = _error(network, crops, kept_out)
        say(f"vocoded crops kept out: {after:.3f} B off what the vocoder makes of them, {before:.3f} B read in a line")
    return network


@torch.inference_mode()
def _error(network: VocodedMel, crops: VocodedCrops, chosen: Tensor) -> float:
    """Mean absolute error, in log10 of power, of what is no more than 80 dB below a crop's loudest."""
    made, wanted = network(crops.mels[chosen].float()), crops.powers[chosen].float()
    return 4 * float((scaled(made) - scaled(wanted)).abs().mean())
