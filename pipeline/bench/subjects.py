"""What the bench can be asked to measure, by name: a tokenizer with its settings, and the two that stand beside them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from pipeline.config import assign, explain
from schemas import Block, Tokenizer, Utterance
from schemas.errors import UserError
from transforms.codec.stage import CodecOptions
from transforms.options import Options
from transforms.resample import resample
from transforms.stage import Stage
from transforms.taste.stage import TasteOptions
from transforms.units.stage import UnitsOptions
from transforms.weights import MissingWeights, locate

ORIGINAL = "original"
"""The clips themselves: always the first row."""

NAMES = """units, codec, taste: as `antiphon prepare` makes them
  lyra: Lyra v2
  melspec: the log-mel spectrogram through HiFi-GAN, nothing quantised: the floor of mel codecs
  original: the clips themselves, always the first row
  a folder with a transformers codec (EnCodec, Mimi, DAC, ...) or SpeechTokenizer, or the name of one that was pulled
each of the first four with settings after a colon, as in `codec:n_codebooks=2` or
`units:model=hubert,backend=transformers,layer=9,quantizer=units.safetensors`"""


@dataclass(frozen=True)
class Tokens:
    """Of one clip: T frames of K codebooks, and when each is.

    Attributes:
        codes: integers `[K, T]`; of a subject that quantises nothing, float32 `[D, T]`.
        starts_s, ends_s: `[T]`, seconds from the start of the clip, in order; there may be gaps (between words).
    """

    codes: np.ndarray
    starts_s: np.ndarray
    ends_s: np.ndarray


class Subject(Protocol):
    """One row of the bench.

    Attributes:
        name: as asked for. sizes: of its codebooks; empty where nothing is quantised.
        has_sound: whether `decode` gives sound. has_prefix: whether it takes the first of several codebooks alone, too.
    """

    name: str
    sizes: tuple[int, ...]
    has_sound: bool
    has_prefix: bool

    def encode(self, utterance: Utterance) -> Tokens:
        """Raises UserError, with the reason, for a clip that it cannot code."""
        ...

    def decode(self, tokens: Tokens) -> tuple[np.ndarray, int]:
        """Sound, float32 `[n]`, and its rate in Hz."""
        ...


def parse(name: str) -> tuple[str, Options | None]:
    """A NAME of the command line -> its kind and options. Loads nothing.

    Raises UserError for a name that is none, or settings that its options do not have.
    """
    kind, colon, settings = name.partition(":")
    values: dict[str, Any] = {}
    if kind in (ORIGINAL, "melspec") and not colon:
        return kind, None
    if kind == "lyra":
        values |= {"backend": "lyra", "model": "lyra-v2"}
    elif kind not in ("units", "codec", "taste"):
        return "codec", _folder(name)
    for setting in settings.split(",") if settings else []:
        try:
            assign(values, setting)
        except ValueError as error:
            raise UserError(f"--tokenizer {name}: {setting!r}: {error}, as in {kind}:field=value") from None
    models: dict[str, type[Options]] = {"units": UnitsOptions, "taste": TasteOptions}
    model = models.get(kind, CodecOptions)
    try:
        return ("codec" if kind == "lyra" else kind), model.model_validate(values)
    except ValidationError as error:
        mistakes = [explain(e, f"--tokenizer {name}", model) for e in error.errors()]  # type: ignore[arg-type]
        raise UserError("\n".join(mistakes)) from None


def _folder(name: str) -> CodecOptions:
    try:
        config = locate(name).path / "config.json"
    except (MissingWeights, ValueError):
        config = Path(name) / "config.json"
    if not config.is_file():
        there = f"; {name} has no config.json" if Path(name).is_dir() else ""
        raise UserError(f"--tokenizer {name}: no such tokenizer{there}. There are:\n  {NAMES}")
    try:
        kind = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{config}: not JSON: {error}") from None
    if "conv_kernel" in kind and "feat_extract_norm" in kind:
        raise UserError(
            f"{name}: a {kind.get('model_type')} model gives units only through a quantizer; name both: "
            f"units:backend=transformers,model={name},layer=LAYER,quantizer=FILE"
        )
    if "semantic_dimension" in kind and "n_q" in kind:
        return CodecOptions(backend="speechtokenizer", model=name)
    return CodecOptions(backend="transformers", model=name)


def make(name: str) -> Subject:
    """The subject, loaded. Raises UserError, MissingWeights among them."""
    kind, options = parse(name)
    if isinstance(options, CodecOptions):
        return CodecSubject(name, options)
    if isinstance(options, UnitsOptions):
        from transforms.units.stage import Units

        return UnitsSubject(name, Units(options))
    if isinstance(options, TasteOptions):
        from transforms.taste.stage import Taste

        return TasteSubject(name, Taste(options))
    if kind == "melspec":
        return MelSubject(name)
    raise AssertionError(f"{name}: {ORIGINAL} is no tokenizer")


class CodecSubject:
    """Any backend of the codec stage."""

    has_sound = True

    def __init__(self, name: str, options: CodecOptions) -> None:
        from transforms.codec.stage import card, make_codec

        self.name = name
        self._codec = make_codec(options)
        self._card = card(options, self._codec)
        self.sizes = self._card.sizes
        # The rows of several rates stand and fall together.
        self.has_prefix = len(self.sizes) > 1 and not self._card.levels

    def encode(self, utterance: Utterance) -> Tokens:
        samples = resample(utterance.samples, utterance.rate_hz, self._codec.sample_rate_hz)
        return _regular(self._codec.encode(samples), self._card)

    def decode(self, tokens: Tokens) -> tuple[np.ndarray, int]:
        return np.clip(self._codec.decode(tokens.codes), -1.0, 1.0), self._codec.sample_rate_hz


class _StageSubject:
    """A stage of the pipeline, run on one utterance at a time."""

    has_sound = has_prefix = False

    def __init__(self, name: str, stage: Stage) -> None:
        self.name = name
        self._stage = stage
        stage.setup()
        card = stage.tokenizer()
        assert card is not None
        self._card = card
        self.sizes = card.sizes

    def _run(self, utterance: Utterance) -> Utterance:
        utterance = replace(utterance)  # the clip of the other tokenizers stays as it is
        block = Block(0, utterance.rate_hz, utterances=[utterance])
        self._stage(block)
        if block.rejections:
            raise UserError(f"--tokenizer {self.name}: {utterance.source}: {block.rejections[0].detail}")
        return utterance

    def decode(self, tokens: Tokens) -> tuple[np.ndarray, int]:
        raise NotImplementedError(f"{self.name} gives no sound")


class UnitsSubject(_StageSubject):
    """SSL units, a unit a frame: repetitions are written out."""

    def encode(self, utterance: Utterance) -> Tokens:
        from transforms.units.kmeans import undup

        done = self._run(utterance)
        assert done.units is not None
        assert done.unit_run_lengths is not None
        return _regular(undup(done.units, done.unit_run_lengths)[None], self._card)


class TasteSubject(_StageSubject):
    """A tuple of codes a word, from the word's start to its end."""

    def encode(self, utterance: Utterance) -> Tokens:
        done = self._run(utterance)
        assert done.taste_codes is not None
        edges = np.array([(word.start_s, word.end_s) for word in done.words], dtype=np.float64).reshape(-1, 2)
        return Tokens(done.taste_codes.T, edges[:, 0], edges[:, 1])


class MelSubject:
    """What the mel codec would give if its codes cost nothing."""

    has_sound = True
    has_prefix = False
    sizes: tuple[int, ...] = ()

    def __init__(self, name: str) -> None:
        from transforms.codec.hifigan import Vocoder

        self.name = name
        self._vocoder = Vocoder("hifigan-universal")

    def encode(self, utterance: Utterance) -> Tokens:
        import torch

        from transforms.codec import melspec

        samples = resample(utterance.samples, utterance.rate_hz, melspec.RATE_HZ)
        bands = melspec.log_mel(torch.from_numpy(samples)).numpy()
        starts_s = np.arange(bands.shape[1]) * (melspec.HOP / melspec.RATE_HZ)
        return Tokens(bands, starts_s, starts_s + melspec.HOP / melspec.RATE_HZ)

    def decode(self, tokens: Tokens) -> tuple[np.ndarray, int]:
        import torch

        from transforms.codec import melspec

        return self._vocoder(torch.from_numpy(tokens.codes)).numpy(), melspec.RATE_HZ


def _regular(codes: np.ndarray, card: Tokenizer) -> Tokens:
    starts_s = np.arange(codes.shape[1]) / card.rate_hz
    return Tokens(np.asarray(codes, dtype=np.int64), starts_s, starts_s + 1 / card.rate_hz)
