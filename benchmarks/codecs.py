"""What codecs keep of speech: word error rate after coding, STOI against the original, bit rate and speed on one thread.

python -m benchmarks.codecs [--clips N] [--mel MODEL] [CODEC ...]

CODEC: some of the rows only, by how their names begin. Whisper tiny counts the words, and the embedded codec is fitted to be heard
alike by its encoder; Moonshine tiny had no part in any fit. Speeds are seconds of audio for each second of processor time.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
import torch
from pystoi import stoi

from benchmarks.common import Clip, clips, machine, table
from schemas import Block, Utterance
from transforms.codec import melspec
from transforms.codec.hifigan import Vocoder
from transforms.codec.latents import continuous, stored
from transforms.codec.stage import CodecOptions, card, make_codec
from transforms.normalize import normalize
from transforms.resample import resample
from transforms.transcribe.stage import Transcribe, TranscribeOptions

RATE_HZ = 16000

CODECS = {
    "mel, latents": CodecOptions(latents=True),
    "mel, 8 codebooks": CodecOptions(),
    "mel, 6 codebooks": CodecOptions(n_codebooks=6),
    "mel, 4 codebooks": CodecOptions(n_codebooks=4),
    "mel, 2 codebooks": CodecOptions(n_codebooks=2),
    "mel, 1 codebook": CodecOptions(n_codebooks=1),
    "Lyra v2, 16 codebooks": CodecOptions(backend="lyra", model="lyra", n_codebooks=16),
    "Lyra v2, 30 codebooks": CodecOptions(backend="lyra", model="lyra", n_codebooks=30),
    "Lyra v2, 46 codebooks": CodecOptions(backend="lyra", model="lyra", n_codebooks=46),
}

VOCODER_ALONE = "HiFi-GAN, nothing quantised"


@dataclass
class Run:
    """Sound that came back, `[n]` at 16 kHz for each clip; "" and 0.0 where there was nothing to code."""

    heard: list[np.ndarray]
    kbit_per_s: str = ""
    encode_s: float = 0.0
    decode_s: float = 0.0


def coded(found: list[Clip], options: CodecOptions) -> Run:
    """Every clip through a codec and back: through its codes, or its latents as they are stored."""
    codec = make_codec(options)
    about = card(options, codec)
    run = Run([], f"{(8 * about.latent_bytes_per_s or about.bits_per_s) / 1000:.2f}")

    def encode(samples: np.ndarray) -> np.ndarray:
        if not about.latents:
            return codec.encode(samples)
        return stored(about, continuous(codec, options.model).encode_latents(samples), len(samples)).latents

    def decode(coded: np.ndarray) -> np.ndarray:
        return continuous(codec, options.model).decode_latents(coded) if about.latents else codec.decode(coded)

    # The vocoder is loaded at the first decoding, which is no part of its speed.
    decode(encode(np.zeros(codec.hop, dtype=np.float32)))
    for clip in found:
        samples = resample(clip.samples, clip.rate_hz, codec.sample_rate_hz)
        started = time.process_time()
        codes = encode(samples)
        encoded = time.process_time()
        made = decode(codes)
        run.encode_s += encoded - started
        run.decode_s += time.process_time() - encoded
        run.heard.append(resample(made, codec.sample_rate_hz, RATE_HZ)[: len(clip.samples)])
    return run


def vocoded(found: list[Clip]) -> Run:
    """Every clip through the log-mel spectrogram and HiFi-GAN alone: the best that the mel codec could be."""
    vocoder = Vocoder("hifigan-universal")
    run = Run([])
    for clip in found:
        log_mel = melspec.log_mel(torch.from_numpy(resample(clip.samples, clip.rate_hz, melspec.RATE_HZ)))
        run.heard.append(resample(vocoder(log_mel).numpy(), melspec.RATE_HZ, RATE_HZ)[: len(clip.samples)])
    return run


def word_error_rate(texts: Sequence[str], heard: Sequence[np.ndarray], recogniser: Transcribe) -> float:
    """Of what is understood of sounds `[n]` at 16 kHz, in which English texts are said."""
    block = Block(0, RATE_HZ)
    block.utterances = [Utterance(str(i), -1, 0, len(samples), samples, RATE_HZ) for i, samples in enumerate(heard)]
    recogniser(block)
    # What was rejected for want of words counts as all words missed.
    understood = {u.source: normalize(u.text, "en") for u in block.utterances}
    said = [normalize(text, "en") for text in texts]
    return jiwer.wer(said, [understood.get(str(i), "") for i in range(len(said))])


def intelligibility(found: list[Clip], heard: list[np.ndarray]) -> float:
    """Mean STOI (Taal et al. 2011) against the originals."""
    return float(np.mean([stoi(c.samples[: len(h)], h, RATE_HZ) for c, h in zip(found, heard, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=60, help="the first N clips")
    parser.add_argument("--mel", default="antiphon-codec", metavar="MODEL", help="the mel codec's weights")
    parser.add_argument("codec", nargs="*", help='such as "mel" or "Lyra v2, 16"')
    args = parser.parse_args()
    found = clips("librispeech-test-other.jsonl", args.clips)
    seconds = sum(clip.seconds for clip in found)
    torch.set_num_threads(1)
    options_of = {"Whisper tiny": TranscribeOptions(), "Moonshine tiny": TranscribeOptions(backend="moonshine")}
    recognisers = {name: Transcribe(options) for name, options in options_of.items()}
    for recogniser in recognisers.values():
        recogniser.setup()
    print(machine("torch", "ai-edge-litert", "moonshine-voice"))
    print(f"{len(found)} clips of LibriSpeech test-other, {seconds:.0f} s; one thread\n")
    runs = {"original": Run([clip.samples for clip in found])}
    if VOCODER_ALONE.startswith(tuple(args.codec or [""])):
        runs[VOCODER_ALONE] = vocoded(found)
    for name, options in CODECS.items():
        if name.startswith(tuple(args.codec or [""])):
            own = options.backend == "mel"
            runs[name] = coded(found, options.model_copy(update={"model": args.mel}) if own else options)
    texts = [clip.line["text"] for clip in found]
    rows = []
    for name, run in runs.items():
        wers = [f"{word_error_rate(texts, run.heard, recogniser):.1%}" for recogniser in recognisers.values()]
        speed = [f"{seconds / s:.1f}" if s else "" for s in (run.encode_s, run.decode_s)]
        rows.append([name, run.kbit_per_s, *wers, f"{intelligibility(found, run.heard):.3f}", *speed])
    words = [f"WER, {name}" for name in recognisers]
    print(table(["codec", "kbit/s", *words, "STOI", "encode, x real time", "decode, x real time"], rows))


if __name__ == "__main__":
    main()
