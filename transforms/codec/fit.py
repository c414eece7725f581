"""Fit the mel codec: reconstruct log-mel crops through the quantiser."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from schemas import Utterance
from transforms.codec import melspec
from transforms.codec.distil import ContentHead, Teacher
from transforms.codec.heard import Crops, Drawn, Heard, audible, hear
from transforms.codec.hifigan import Vocoder
from transforms.codec.listen import Listener, balanced
from transforms.codec.mel import VOCODER, load_network, read_header, save_network
from transforms.codec.network import MelCodecNetwork
from transforms.codec.vocoded import fit_vocoded, vocode
from transforms.options import Options
from transforms.schedule import warm_cosine

_SEEN = 20_000
"""Frames that the codebooks are set by."""

_SHAPE = ("stack", "channels", "encoder_blocks", "decoder_blocks", "levels", "size", "code_dim", "guess_width")
"""Options that are the network's sizes."""


class FitCodecOptions(Options):
    """How to fit a mel codec."""

    path: Path
    """The safetensors file to write."""
    data: str
    """The data, its size and its licence in one sentence; written into the file's header."""
    stack: int = Field(default=2, ge=1)
    """Mel frames of 11.6 ms in a vector of the network; 2 are 43.07 vectors a second."""
    levels: int = Field(default=8, ge=1)
    """Codebooks of a frame."""
    size: int = Field(default=2880, ge=2)
    """Codes in each."""
    code_dim: int = Field(default=64, ge=1)
    """Dimensions that they live in."""
    guess_width: int = Field(default=192, ge=0)
    """Width of the convolutions that foretell vectors from those around them, so that codes need only say the rest; a frame is then
    a pair of vectors, and takes an even number of codebooks (transforms/codec/refined.py). 0: each vector by itself is a frame."""
    channels: int = Field(default=224, ge=1)
    """Width of the network."""
    encoder_blocks: int = Field(default=3, ge=0)
    """Its depth before the codes."""
    decoder_blocks: int = Field(default=5, ge=0)
    """Its depth after them."""
    steps: int = 9000
    """Steps in all."""
    steps_plain: int = 500
    """Steps before the codebooks are set by k-means; until then nothing is quantised."""
    start: Path | None = None
    """A mel codec to go on from, of the same sizes; quantised from the first step. The learning rate begins anew, and so does what
    is thrown away after a fit: the map to the teacher's states."""
    batch: int = 16
    """Crops in a step."""
    crop_vectors: int = Field(default=64, ge=2, multiple_of=2)
    """Vectors in a crop; 64 are 1.5 s."""
    learning_rate: float = 2e-3
    """Peak learning rate; linear warm-up over 100 steps, cosine decay."""
    commitment_weight: float = 0.25
    """Weight of the distance between the encoder's vectors and their codes."""
    prefix_share: float = 0.1
    """Share of the crops that are restored from their first 1 to K codebooks only, so that a prefix is a code of its own."""
    distil_weight: float = Field(default=0.05, ge=0)
    """Weight of the distance between what the first codebook says and the teacher's states; 0 fits without a teacher."""
    distil_model: str = "whisper-tiny"
    """The teacher, and who hears: weights of openai-whisper, a name or a path."""
    distil_layer: int = 3
    """The teacher's layer whose states are learnt, as in `units.layer`."""
    inaudible_weight: float = Field(default=0.15, ge=0, le=1)
    """What the error of values counts that lie 60 dB and more under a crop's loud ones; those 30 dB under them count 1."""
    heard_weight: float = Field(default=8.0, ge=0)
    """How strongly it is asked for that the teacher hears what is restored, once HiFi-GAN has made it sound, as the original
    (transforms/codec/listen.py): the norm of that loss's gradient as a share of the norm of the log-mel error's own. 0 does
    without, and without HiFi-GAN's weights."""
    heard_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the steps, the last ones, that have that loss; on all crops it takes twice as long as all the rest."""
    heard_crops: int = Field(default=16, ge=1)
    """Crops of a step that it is taken on."""
    vocoded_crops: int = Field(default=3000, ge=1)
    """Crops that HiFi-GAN makes sound before those steps, a third as they are and two thirds as restored by then, so that a small
    network learns to foretell what is heard (transforms/codec/vocoded.py). About half a second each on one core."""
    vocoded_steps: int = Field(default=2500, ge=1)
    """Steps of that network."""
    gain_db: float = Field(default=6.0, ge=0)
    """Crops are made louder or softer by up to this, so that the codec does not depend on how loud a recording is."""
    bfloat16: bool = False
    """Multiply in bfloat16 but for the quantiser; on a processor with instructions for it a step takes two thirds of the time."""
    content_blocks: int = Field(default=0, ge=0)
    """Blocks of a branch of the encoder that the first codebook codes alone, as in Mimi: more content in it, and less sound in
    all of them. 0: all codebooks code one vector, as in SpeechTokenizer."""
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
        content: mean cosine of the first codebook's map with the teacher's states, in units of their deviation; None without.
        used: codes of each codebook that occur.
    """

    path: Path
    n_utterances: int
    hours: float
    error: float
    content: float | None
    used: tuple[int, ...]


def fit_codec(utterances: Iterable[Utterance], options: FitCodecOptions, say: Callable[[str], None]) -> FittedCodec:
    """Fit a mel codec and write it to `options.path`. On one machine the same input and options give the same bytes.

    Args:
        utterances: read once. Need samples only. An hour of them is 170 MB in memory, and 115 MB more where somebody listens.
        say: told of progress.

    Raises:
        ValueError: no utterance, or none as long as a crop; a teacher, and no codebook left for the sound.
        MissingWeights: the teacher or the vocoder is not on this machine.
    """
    if options.distil_weight and options.levels < 2:
        raise ValueError("levels is 1: the first codebook is the teacher's; give 2 or more, or distil_weight=0")
    teacher = Teacher(options.distil_model, options.distil_layer) if options.distil_weight else None
    vocoder = Vocoder(VOCODER) if options.heard_weight else None
    fitted, heldout = hear(utterances, teacher, options.stack, bool(options.heard_weight), say)
    crops = Crops(fitted, options.stack, options.crop_vectors)
    # Weights start from torch's global generator, which is put back as it was.
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = _network(options)
        head = ContentHead(network.shape["channels"], torch.cat([h.states for h in fitted])) if teacher else None
    frames = torch.cat([heard.mel.float() for heard in fitted], dim=1)
    if not options.start:
        network.mean.copy_(frames.mean(1))
        network.deviation.copy_(frames.std(1))
    hours = frames.shape[1] * melspec.HOP / melspec.RATE_HZ / 3600
    del frames
    train(network, head, vocoder, crops, options, say)
    header: dict[str, object] = {
        "data": options.data,
        "options": options.model_dump(mode="json", exclude={"path", "data", "start"}),
    }
    header |= {"teacher_sha256": teacher.sha256} if teacher else {}
    header |= {"vocoder_sha256": vocoder.sha256} if vocoder else {}
    header |= {"start": read_header(options.start)} if options.start else {}
    save_network(network, options.path, header)
    error, content, used = measure(network.eval(), head, heldout or fitted[:50])
    return FittedCodec(options.path, len(fitted), hours, error, content, used)


def train(
    network: MelCodecNetwork,
    head: ContentHead | None,
    vocoder: Vocoder | None,
    crops: Crops,
    options: FitCodecOptions,
    say: Callable[[str], None],
) -> None:
    """Fit in place: first without quantiser, then codebooks from k-means, which follow the encoder from there on; last, heard as
    the vocoder sounds.
    """
    generator = torch.Generator().manual_seed(options.seed)
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=options.bfloat16)
    parameters = [*network.parameters(), *(head.parameters() if head else [])]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, options.steps))
    network.train()
    steps_plain = 0 if options.start else options.steps_plain
    # Nobody listens before there are codes.
    first_heard = max(steps_plain, round((1 - options.heard_share) * options.steps)) + 1
    listener = None
    # The pace is that of the last lines: listening slows it down.
    since, started = 0, time.perf_counter()
    errors: list[float] = []
    distances: list[float] = []
    unlike: list[float] = []
    for step in range(1, options.steps + 1):
        if vocoder and step == first_heard:
            listener = _listener(network, vocoder, crops, options, say)
            since, started = step - 1, time.perf_counter()
        batch = crops.draw(options.batch, options.gain_db, generator)
        with autocast():
            latent = network.latent(batch.mels).float()
        if step <= steps_plain:
            quantised, first = network.unquantised(latent)
            commitment = latent.new_zeros(())
        else:
            keep = _kept(options, generator)
            quantised, first, commitment = network.quantise(latent, keep, generator)
        with autocast():
            restored = network.restore(quantised).float()
        pull, unheard = _pull(restored.detach(), batch, network.deviation, listener, options)
        loss = (restored * pull).sum() + options.commitment_weight * commitment
        unlike += unheard
        if head:
            distance = head.distance(first, batch.states)
            distances.append(distance.item())
            loss = loss + options.distil_weight * distance
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        errors.append(float(F.l1_loss(restored.detach(), batch.mels)))
        if step == steps_plain:
            with torch.no_grad():
                seen = crops.draw(_SEEN // options.crop_vectors, options.gain_db, generator)
                network.initialise(network.latent(seen.mels), generator)
        if step % options.log_every == 0:
            left = (options.steps - step) * (time.perf_counter() - started) / (step - since) / 60
            cosine = f"  content {1 - np.mean(distances):.3f}" if head else ""
            ears = f"  heard {np.mean(unlike):.3f}" if unlike else ""
            say(f"step {step} of {options.steps}  error {np.mean(errors):.3f}{cosine}{ears}  {left:.1f} min left")
            since, started = step, time.perf_counter()
            for figures in (errors, distances, unlike):
                figures.clear()


def _pull(
    restored: Tensor, original: Drawn, deviation: Tensor, listener: Listener | None, options: FitCodecOptions
) -> tuple[Tensor, list[float]]:
    """(gradient of the losses with respect to the restored log-mels `[B, 80, M]`, the listener's distance if there is one)."""
    restored.requires_grad_()
    difference = (restored - original.mels) / deviation[:, None]
    counts = options.inaudible_weight + (1 - options.inaudible_weight) * audible(original.mels)
    # Absolute error keeps edges sharp, squared error large deviations away.
    error = (counts / counts.mean() * (difference.abs() + 0.5 * difference.square())).mean()
    (pull,) = torch.autograd.grad(error, restored)
    if not listener:
        return pull, []
    some = slice(options.heard_crops)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
        distance = listener.distance(restored[some], original.sounds[some])
    (heard,) = torch.autograd.grad(distance, restored)
    pull[some] += options.heard_weight * balanced(heard[some], pull)
    return pull, [distance.item()]


def _listener(
    network: MelCodecNetwork, vocoder: Vocoder, crops: Crops, options: FitCodecOptions, say: Callable[[str], None]
) -> Listener:
    """One that knows what the vocoder makes of log-mels such as the network restores by now."""
    # Its own generator: how many crops are drawn here does not change those that are fitted on.
    generator = torch.Generator().manual_seed(options.seed + 1)
    mels = crops.draw(options.vocoded_crops, options.gain_db, generator).mels
    network.eval()
    given = torch.stack([network.decode(network.encode(mel)) if i % 3 else mel for i, mel in enumerate(mels)])
    network.train()
    vocoded = fit_vocoded(vocode(given, vocoder, say), options.vocoded_steps, options.seed, options.bfloat16, say)
    return Listener(options.distil_model, vocoded)


@torch.inference_mode()
def measure(
    network: MelCodecNetwork, head: ContentHead | None, heard: list[Heard]
) -> tuple[float, float | None, tuple[int, ...]]:
    """(mean absolute error of log-mel, mean cosine with the teacher's states, codes in use by codebook) over whole utterances."""
    total, cosines, n_vectors = 0.0, 0.0, 0
    codes = []
    for mel, states, _ in heard:
        # Whole codec frames.
        n = len(states) // network.pair * network.pair
        original = mel[:, : n * network.stack].float()
        codes.append(network.encode(original))
        total += float(F.l1_loss(network.decode(codes[-1]), original, reduction="sum"))
        n_vectors += n
        if head:
            cosines += n * (1 - float(head.distance(network.first(codes[-1]), states[:n].float())))
    used = tuple(len(row.unique()) for row in torch.cat(codes, dim=1))
    return total / (n_vectors * network.stack * melspec.N_MELS), cosines / n_vectors if head else None, used


def _network(options: FitCodecOptions) -> MelCodecNetwork:
    """New, or the one to go on from. Raises ValueError where that is of other sizes."""
    content_blocks = options.content_blocks if options.distil_weight else 0
    shape = {"content_blocks": content_blocks} | {name: getattr(options, name) for name in _SHAPE}
    if not options.start:
        return MelCodecNetwork(**shape)
    network = load_network(options.start)
    if other := {name: network.shape[name] for name in shape if network.shape[name] != shape[name]}:
        raise ValueError(f"{options.start} has {other}, and the options { ({name: shape[name] for name in other}) }")
    return network


def _kept(options: FitCodecOptions, generator: torch.Generator) -> Tensor:
    """int64 `[B]`: from how many codebooks each crop is restored."""
    keep = torch.full((options.batch,), options.levels)
    chosen = torch.rand(options.batch, generator=generator) < options.prefix_share
    keep[chosen] = torch.randint(1, options.levels + 1, (int(chosen.sum()),), generator=generator)
    return keep
