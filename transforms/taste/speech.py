"""Text and codes -> units with their durations, by the compact decoder, one unit after the other."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from schemas import Utterance
from transforms.codec import melspec
from transforms.taste.aggregator import FRAME_HZ, word_mean
from transforms.taste.blocks import Cache
from transforms.taste.decoder import Fused, Phones, SpeechDecoder
from transforms.taste.examples import Voice
from transforms.taste.fit import voice
from transforms.taste.model import TasteTokenizer, WrongTokenizer, load, read_card
from transforms.taste.phones import PhoneReader
from transforms.taste.sound import Sound, load_sound
from transforms.weights import locate


class Said(NamedTuple):
    """units, runs, words: int64 `[M]`: unit, its frames of 20 ms, and the index of the word that it belongs to."""

    units: np.ndarray
    runs: np.ndarray
    words: np.ndarray

    @property
    def frames(self) -> np.ndarray:
        """int64 `[T]`: the unit of each frame."""
        return np.repeat(self.units, self.runs)

    def word_durations_s(self, n_words: int) -> np.ndarray:
        """float64 `[W]`: seconds from the beginning of each word to that of the next."""
        return np.bincount(self.words, weights=self.runs, minlength=n_words) / FRAME_HZ


@dataclass(frozen=True)
class Drawing:
    """How units are drawn: temperature 0 takes the likeliest. max_word_s: no word lasts longer."""

    temperature: float = 0.7
    top_k: int = 25
    seed: int = 0
    max_word_s: float = 3.0


class Speech:
    """A fitted tokenizer, the decoder that was fitted with it, and what makes its units sound.

    Attributes:
        sha256: of the tokenizer's file, the revision of its codes. rate_hz: of the sound.
        speaker: the speaker encoder whose voices the decoder knows; None for no voices. language: ISO 639-1, of the texts.
    """

    rate_hz = melspec.RATE_HZ

    def __init__(
        self,
        model: TasteTokenizer,
        decoder: SpeechDecoder,
        sound: Sound | None = None,
        *,
        sha256: str = "",
        speaker: str | None = None,
        language: str = "en",
    ) -> None:
        self.model, self.decoder, self.sound = model.eval(), decoder.eval(), sound
        self.sha256, self.speaker = sha256, speaker
        self._read = PhoneReader(language)

    @classmethod
    def load(cls, name: str, recogniser: str) -> "Speech":
        """From the tokenizer's file, `NAME-decoder.safetensors` and `NAME-sound.safetensors` beside it.

        Raises MissingWeights; WrongTokenizer or UserError where the three were not fitted together.
        """
        from transforms.whisper_model import load_whisper

        weight = locate(name)
        model = load(weight.path, load_whisper(recogniser))
        decoder = load_decoder(locate(beside(weight.path, "decoder")).path, weight.sha256)
        network = load_sound(locate(beside(weight.path, "sound")).path, weight.sha256)
        told = read_card(weight.path)["options"]
        sound = Sound(network)
        return cls(model, decoder, sound, sha256=weight.sha256, speaker=told["speaker"], language=told["language"])

    @cached_property
    def _voice_of(self) -> Voice:
        # The encoder is loaded at the first voice that is asked for, and once.
        return voice(self.speaker)

    def voice(self, utterance: Utterance) -> np.ndarray:
        """float32 `[S]`: the voice of an utterance, as fitting had it."""
        return self._voice_of(utterance)

    @torch.no_grad()
    def fuse(self, text: str, codes: np.ndarray | None, voice: np.ndarray) -> Fused:
        """What the decoder reads.

        Args:
            text: W words. codes: int `[W, R]`, a tuple for each, or fewer levels; None: from the text alone.
            voice: float32 `[S]`, of length 1, or zeros for no one's.

        Raises:
            ValueError: no words, or not as many codes.
        """
        tokens = self.model.tokenize(text)
        if not tokens.words:
            raise ValueError("no words to say")
        embedded = self.model.aggregator.embedding(torch.from_numpy(tokens.ids))
        vectors = word_mean(embedded, torch.from_numpy(tokens.word_ids), len(tokens.words))
        decoded = None
        if codes is not None:
            if len(codes) != len(tokens.words):
                raise ValueError(f"codes for {len(codes)} words, but the text has {len(tokens.words)}")
            decoded = self.model.quantiser.decode(torch.from_numpy(np.asarray(codes, dtype=np.int64)))
        ids, of_word = (torch.from_numpy(part) for part in self._read(tokens.words))
        phones = Phones(ids[None], torch.ones(1, len(ids), dtype=torch.bool), of_word)
        return self.decoder.fuse(vectors, decoded, phones, torch.from_numpy(voice)[None])

    def word_lengths_s(self, text: str, codes: np.ndarray | None, voice: np.ndarray) -> np.ndarray:
        """float64 `[W]`: how long each word lasts when it is said so. See `fuse` for the arguments and errors."""
        return np.array(word_frames(self.fuse(text, codes, voice), Drawing().max_word_s)) / FRAME_HZ

    def say(self, text: str, codes: np.ndarray | None, voice: np.ndarray, drawing: Drawing | None = None) -> Said:
        """Units of the text, said as the codes have it. See `fuse` for the arguments and errors."""
        return write_units(self.decoder, self.fuse(text, codes, voice), drawing or Drawing())

    def samples(self, said: Said, codes: np.ndarray | None, voice: np.ndarray) -> np.ndarray:
        """The sound of units, float32 `[n]` at `rate_hz`. codes: those of the words, for pitch and loudness."""
        if self.sound is None:
            raise ValueError("no weights that make units sound")
        words = np.repeat(said.words, said.runs)
        latents = np.zeros((len(words), self.model.quantiser.codebooks.shape[-1]), dtype=np.float32)
        if codes is not None:
            latents = self.model.quantiser.latent(torch.from_numpy(np.asarray(codes, dtype=np.int64))).numpy()[words]
        return self.sound(said.frames, latents, voice)


def beside(path: Path, what: str) -> str:
    """The file that belongs to a tokenizer's: `X.safetensors` -> `X-decoder.safetensors`."""
    return str(path.with_name(f"{path.stem}-{what}.safetensors"))


def load_decoder(path: Path, tokenizer_sha256: str) -> SpeechDecoder:
    """The decoder of a file that `antiphon fit taste` wrote beside its tokenizer.

    Raises:
        WrongTokenizer: another kind of file, or one that was fitted with another tokenizer.
    """
    card = read_card(path)
    if card.get("tokenizer_sha256") != tokenizer_sha256:
        raise WrongTokenizer(
            f"{path}: fitted with a tokenizer of sha256 {str(card.get('tokenizer_sha256'))[:12]}, and this one's is "
            f"{tokenizer_sha256[:12]}"
        )
    if card["options"].get("decoder") == "unit_lm":
        raise WrongTokenizer(
            f"{path}: the paper's unit LM, whose units nothing here turns into sound; fit with decoder=compact"
        )
    try:
        decoder = SpeechDecoder(**card["decoder"])
        with safe_open(path, framework="pt") as file:
            decoder.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    except (KeyError, TypeError, RuntimeError) as error:
        raise WrongTokenizer(
            f"{path}: a speech decoder of another kind; fit it again with this version ({error})"
        ) from error
    return decoder.eval()


def word_frames(fused: Fused, max_word_s: float) -> list[int]:
    """How many frames of 20 ms each word lasts: one at least."""
    frames: list[int] = fused.log_frames.exp().round().clamp(1, max_word_s * FRAME_HZ).long().tolist()
    return frames


@torch.no_grad()
def write_units(decoder: SpeechDecoder, fused: Fused, drawing: Drawing) -> Said:
    """Units for the fused prefix of one utterance, each word as long as is told. The same seed gives the same units."""
    random = torch.Generator().manual_seed(drawing.seed)
    cache: Cache = []
    decoder.start(fused, cache)
    before = decoder.first()
    said: list[tuple[int, int, int]] = []
    for word, length in enumerate(word_frames(fused, drawing.max_word_s)):
        elapsed = 0
        while left := length - elapsed:
            state = decoder.step(before, len(said), fused.words[word], elapsed, left, cache)
            unit = _draw(decoder.unit_out(state), drawing, random)
            run = _draw(decoder.run_logits(state, unit)[:left], drawing, random) + 1
            said.append((unit, run, word))
            elapsed += run
            before = decoder.said(unit, run)
    return Said(*np.array(said, dtype=np.int64).reshape(-1, 3).T)


def _draw(logits: Tensor, drawing: Drawing, random: torch.Generator) -> int:
    if drawing.temperature == 0:
        return int(logits.argmax())
    best = logits.topk(min(drawing.top_k, len(logits)))
    shares = (best.values.double() / drawing.temperature).softmax(-1)
    return int(best.indices[torch.multinomial(shares, 1, generator=random)])
