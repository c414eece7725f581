"""`antiphon speak`: a trained model goes on from a prompt; its codes or latents become sound again, its units a file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from schemas import Tokenizer
from schemas.errors import UserError
from transforms.codec.codec import BACKENDS
from transforms.codec.stage import CodecOptions, card, decode_codes, decode_latents, make_codec

if TYPE_CHECKING:
    from training.generate import Generation


@dataclass(frozen=True)
class Spoken:
    """What was said: the text, the sound's length in seconds, the wav file it is in, and how many words did not fit."""

    text: str
    seconds: float
    wav: Path
    unsaid: int = 0

    def __str__(self) -> str:
        left = f"; {self.unsaid} words of the prompt did not fit: allow more seconds" if self.unsaid else ""
        return f"{self.text}\n{self.wav}: {self.seconds:.2f} s{left}"


@dataclass(frozen=True)
class SpokenUnits:
    """What was said in units: the text, how many units, and the JSON file they are in."""

    text: str
    units: int
    path: Path

    def __str__(self) -> str:
        return f"{self.text}\n{self.path}: {self.units} units, which no vocoder here turns into sound"


def speak(
    checkpoint: str | Path,
    text: str,
    out: str | Path,
    *,
    max_s: float = 8.0,
    seed: int = 0,
    temperature: float = 0.8,
    codec: str | None = None,
    fill: str | Path | None = None,
) -> Spoken | SpokenUnits:
    """Say `text`, go on from it, and write the sound to the wav file `out`, or units to a .json file (see `write_units`).

    Args:
        checkpoint: a folder of `antiphon train`. max_s: seconds of sound at the most.
        fill: a folder of `antiphon train` with layout valle-nar, whose model says the codebooks that the first one leaves out.
        codec: name or path of the codec's or the TASTE tokenizer's weights; None for the name in the checkpoint.

    Raises UserError where nothing turns the layout's codes into sound, or their codec or tokenizer cannot be found.
    """
    import soundfile

    from training.checkpoint import load
    from training.filling import check_filler
    from training.generate import Sampling, generate

    run = load(Path(checkpoint))
    filler = load(Path(fill)) if fill else None
    if filler:
        check_filler(filler, run)
    sampling = Sampling(temperature=temperature, seed=seed)
    if run.layout.kinds == ("units",) and Path(out).suffix == ".json":
        return write_units(Path(out), generate(run, text, max_s=max_s, sampling=sampling), run.cards["units"])
    if run.layout.kind not in ("codec", "taste"):
        raise UserError(
            f"{run.path}: layout {run.layout.name} says {run.layout.kind or 'no'} codes, which nothing here turns into sound; "
            "train with `layout.name: codec`, `taste` or `latents` to hear the model, or write units to an --out that ends in .json"
        )
    if run.layout.kind == "taste":
        from pipeline.speak_taste import sound_of_words, speech_of

        speech = speech_of(run.cards["taste"], codec)
        said = generate(run, text, max_s=max_s, sampling=sampling)
        samples, rate_hz = sound_of_words(speech, said.words, said.codes)
    elif run.layout.latent_dim:
        options = codec_options(run.cards["codec"], codec)
        said = generate(run, text, max_s=max_s, sampling=sampling)
        samples, rate_hz = decode_latents(options, said.latents)
    else:
        options = codec_options(run.cards["codec"], codec)
        said = generate(run, text, max_s=max_s, sampling=sampling, filler=filler)
        # Of two speakers, the model's own; frames in which it is silent have no codes.
        codes = said.codes[: len(run.cards["codec"].sizes)]
        samples, rate_hz = sound(options, codes[:, (codes >= 0).all(axis=0)])
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(out), samples, rate_hz, subtype="PCM_16")
    unsaid = max(0, len(text.split()) - len(said.words))
    return Spoken(said.text, len(samples) / rate_hz, Path(out), unsaid)


def write_units(out: Path, said: "Generation", card: Tokenizer) -> SpokenUnits:
    """What was said as JSON: `text`, `units` as the layout has them (merged ones taken apart), and `tokenizer`, their card."""
    made = {"text": said.text, "units": said.units.tolist(), "tokenizer": card.as_json()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(made, ensure_ascii=False) + "\n", "utf-8")
    return SpokenUnits(said.text, len(said.units), out)


def codec_options(wanted: Tokenizer, model: str | None = None) -> CodecOptions:
    """The options of the codec that made the tokens of a card.

    A card tells what the codec gave, not which backend it was: the one whose own card has the same revision is it.
    """
    tried = []
    for backend in BACKENDS:
        options = CodecOptions(
            backend=backend,  # type: ignore[arg-type]
            model=model or wanted.name,
            n_codebooks=len(wanted.sizes) or None,
            latents=wanted.latents is not None,
        )
        try:
            found = card(options, make_codec(options))
        except (UserError, OSError, ValueError) as error:
            tried.append(f"{backend}: {error}")
            continue
        if found.revision == wanted.revision:
            return options
        tried.append(f"{backend}: revision {found.revision[:12]}")
    raise UserError(
        f"no codec here has revision {wanted.revision[:12]} of {wanted.name}, which the model's tokens are of; "
        f"name its weights. Tried {'; '.join(tried)}"
    )


def sound(options: CodecOptions, codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes `[K, T]` of the codec's first K codebooks -> (float32 `[n]`, its rate in Hz). No frames give no samples."""
    return decode_codes(options.model_copy(update={"n_codebooks": len(codes)}), codes)
