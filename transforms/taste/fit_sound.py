"""Fit the network from units, word codes and a voice to log-mel frames."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from schemas import Utterance
from transforms.codec import melspec
from transforms.options import Options
from transforms.resample import resample
from transforms.schedule import warm_cosine
from transforms.taste.fit import voice
from transforms.taste.model import read_card
from transforms.taste.sound import SoundNetwork, mel_frames, save_sound
from transforms.taste.timing import word_spans
from transforms.weights import locate

_HELDOUT_EVERY = 20
"""One speaker in so many, by name, is kept out of fitting and measured."""


class FitSoundOptions(Options):
    """How to fit what makes units and word codes sound."""

    path: Path
    """The safetensors file to write."""
    data: str
    """The data, its size and its licence in one sentence; written into the file's header."""
    tokenizer: str = "antiphon-taste"
    """The TASTE tokenizer that made the corpus's codes: a name or a path."""
    speaker: str | None = "resemblyzer"
    """Speaker encoder, the one that the decoder was fitted with: a name or a path. None: no one's voice."""
    n_units: int = 500
    """Number of speech units."""
    channels: int = 256
    """Width of the network."""
    steps: int = 2500
    """Steps in all."""
    batch: int = 16
    """Crops in a step."""
    crop_frames: int = 100
    """Unit frames of 20 ms in a crop."""
    text_share: float = 0.15
    """Share of crops whose codes are held back, so that the network can also do without."""
    learning_rate: float = 1e-3
    """Peak learning rate; linear warm-up over 100 steps, cosine decay."""
    bfloat16: bool = False
    """Multiply in bfloat16, which processors with instructions for it do about twice as fast."""
    log_every: int = 100
    """Steps between two lines of progress."""
    seed: int = 0
    """Seed of everything drawn."""


class Clip(NamedTuple):
    """One utterance. units: int64 `[T]`. latents: float16 `[T, d]`. voice: float32 `[S]`. mel: float16 `[80, M]`."""

    speaker: str
    units: Tensor
    latents: Tensor
    voice: Tensor
    mel: Tensor


class FittedSound(NamedTuple):
    """What was written, and the mean absolute error of log-mel on speakers held out, with codes and without."""

    path: Path
    n_clips: int
    error: float
    error_without_codes: float


def fit_sound(utterances: Iterable[Utterance], options: FitSoundOptions, say: Callable[[str], None]) -> FittedSound:
    """Fit the network and write it to `options.path`. On one machine the same input and options give the same bytes.

    Raises:
        ValueError: an utterance without units or TASTE codes, or none as long as a crop.
    """
    weight = locate(options.tokenizer)
    read_card(weight.path)
    with safe_open(weight.path, framework="pt") as file:
        codebooks = file.get_tensor("quantiser.codebooks").float()
    clips = build(utterances, codebooks, voice(options.speaker), say)
    network, figures = fit_clips(clips, options, say)
    card: dict[str, object] = {
        "data": options.data,
        "tokenizer_sha256": weight.sha256,
        "figures": {"error": figures[0], "error_without_codes": figures[1]},
        "options": options.model_dump(mode="json", exclude={"path", "data", "log_every"}),
    }
    save_sound(options.path, network, card)
    return FittedSound(options.path, len(clips), *figures)


def build(
    utterances: Iterable[Utterance],
    codebooks: Tensor,
    speaker_of: Callable[[Utterance], np.ndarray],
    say: Callable[[str], None],
) -> list[Clip]:
    """Utterances as clips: 25 MB of log-mel and latents an hour of units. codebooks: `[R, size, d]`."""
    clips = []
    for u in utterances:
        if u.units is None or u.unit_run_lengths is None or u.taste_codes is None:
            raise ValueError(
                f"{u.id} ({u.source}): no units or no TASTE codes; run both stages before fitting their sound"
            )
        if not u.words:
            continue
        frames = np.repeat(u.units, u.unit_run_lengths).astype(np.int64)
        words = frame_words([word.start_s for word in u.words], len(frames))
        samples = resample(u.samples, u.rate_hz, melspec.RATE_HZ)
        wanted = mel_frames(len(frames)) * melspec.HOP
        mel = melspec.log_mel(torch.from_numpy(np.pad(samples, (0, max(0, wanted - len(samples))))[:wanted]))
        speaker = str(u.given.get("speaker") or u.source)
        latents = word_latents(u.taste_codes, codebooks)[words]
        clips.append(
            Clip(speaker, torch.from_numpy(frames), latents.half(), torch.from_numpy(speaker_of(u)), mel.half())
        )
        if len(clips) % 500 == 0:
            say(f"log-mels of {len(clips)} utterances")
    return clips


def word_latents(codes: np.ndarray, codebooks: Tensor) -> Tensor:
    """int `[W, r]`, codebooks `[R, size, d]` -> `[W, d]`: the sum of each word's codes."""
    columns = torch.from_numpy(np.asarray(codes, dtype=np.int64)).unbind(-1)
    return torch.stack([codebooks[level][column] for level, column in enumerate(columns)]).sum(0)


def frame_words(starts_s: list[float], n_frames: int) -> np.ndarray:
    """The word of each unit frame, int64 `[T]`: a word lasts until the next one begins, the first from the beginning."""
    starts = word_spans(starts_s, starts_s, n_frames)[1:, 0]
    return np.searchsorted(starts, np.arange(n_frames), side="right")


def fit_clips(
    clips: list[Clip], options: FitSoundOptions, say: Callable[[str], None]
) -> tuple[SoundNetwork, tuple[float, float]]:
    """The fitted network, and its error on the speakers held out, with codes and without."""
    names = sorted({clip.speaker for clip in clips})
    kept_out = set(names[::_HELDOUT_EVERY]) if len(names) > 1 else set()
    fitted = [c for c in clips if c.speaker not in kept_out and len(c.units) > options.crop_frames]
    if not fitted:
        raise ValueError(f"{len(clips)} utterances, none of them longer than a crop of {options.crop_frames} frames")
    # Weights start from torch's global generator, which is put back as it was.
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = SoundNetwork(
            options.n_units,
            latent_dim=clips[0].latents.shape[1],
            speaker_dim=len(clips[0].voice),
            channels=options.channels,
        )
    frames = torch.cat([clip.mel.float() for clip in fitted], dim=1)
    network.mean.copy_(frames.mean(1))
    network.deviation.copy_(frames.std(1))
    _train(network, fitted, options, say)
    heldout = [clip for clip in clips if clip.speaker in kept_out] or fitted[:50]
    return network, (measure(network, heldout, True), measure(network, heldout, False))


def _train(network: SoundNetwork, clips: list[Clip], options: FitSoundOptions, say: Callable[[str], None]) -> None:
    generator = torch.Generator().manual_seed(options.seed)
    shares = torch.tensor([float(len(clip.units)) for clip in clips])
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, options.steps))
    network.train()
    started, errors = time.perf_counter(), []
    for step in range(1, options.steps + 1):
        drawn = torch.multinomial(shares, options.batch, replacement=True, generator=generator).tolist()
        units, latents, voices, mels = _crops([clips[i] for i in drawn], options.crop_frames, generator)
        kept = torch.rand(len(latents), 1, 1, generator=generator) >= options.text_share
        with torch.autocast(units.device.type, torch.bfloat16, enabled=options.bfloat16):
            made = network(units, latents * kept, voices, mels.shape[-1])
        difference = made.float() - (mels - network.mean[:, None]) / network.deviation[:, None]
        # Absolute error keeps edges sharp, squared error large deviations away.
        loss = difference.abs().mean() + 0.25 * difference.square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        errors.append(float((difference.detach().abs() * network.deviation[:, None]).mean()))
        if step % options.log_every == 0:
            left_s = (time.perf_counter() - started) / step * (options.steps - step)
            say(f"step {step} of {options.steps}  error {np.mean(errors):.3f}  {left_s / 60:.1f} min left")
            errors.clear()
    network.eval()


def _crops(clips: list[Clip], n_frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """units `[B, T]`, latents `[B, T, d]`, voices `[B, S]`, log-mel `[B, 80, M]`, from anywhere in each clip."""
    n_mel = mel_frames(n_frames)
    units, latents, mels = [], [], []
    for clip in clips:
        start = int(torch.randint(0, len(clip.units) - n_frames + 1, (1,), generator=generator))
        at = min(mel_frames(start), clip.mel.shape[1] - n_mel)
        units.append(clip.units[start : start + n_frames])
        latents.append(clip.latents[start : start + n_frames].float())
        mels.append(clip.mel[:, at : at + n_mel].float())
    return torch.stack(units), torch.stack(latents), torch.stack([c.voice for c in clips]), torch.stack(mels)


@torch.inference_mode()
def measure(network: SoundNetwork, clips: list[Clip], with_codes: bool) -> float:
    """Mean absolute error of log-mel over whole utterances; 0.12 is about 1 dB."""
    total, count = 0.0, 0
    for clip in clips:
        latents = clip.latents.float() * with_codes
        normal = network(clip.units[None], latents[None], clip.voice[None], clip.mel.shape[1])[0]
        made = normal * network.deviation[:, None] + network.mean[:, None]
        total += float((made - clip.mel.float()).abs().sum())
        count += clip.mel.numel()
    return round(total / count, 4)
