"""Text and codes -> units and sound, by the compact decoder."""

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open

from schemas import Utterance
from transforms.codec import melspec
from transforms.taste.aggregator import FRAME_HZ, word_mean
from transforms.taste.decoder import Fused, Phones, SpeechDecoder
from transforms.taste.examples import Voice
from transforms.taste.fit import voice
from transforms.taste.model import TasteTokenizer, WrongTokenizer, load, read_card
from transforms.taste.phones import PhoneReader
from transforms.taste.sound import Sound, load_sound
from transforms.weights import locate

MAX_WORD_FRAMES = 3 * FRAME_HZ
"""No word lasts longer, and no pause."""


class Said(NamedTuple):
    """units, words: int64 `[T]`, for each frame of 20 ms its unit, and the index of the word that it belongs to: pauses to the
    word before them, what is before the first word to that."""

    units: np.ndarray
    words: np.ndarray

    def word_durations_s(self, n_words: int) -> np.ndarray:
        """float64 `[W]`: seconds from the beginning of each word to that of the next."""
        return np.bincount(self.words, minlength=n_words) / FRAME_HZ


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

    def word_lengths_s(
        self, text: str, codes: np.ndarray | None, voice: np.ndarray, *, pauses: bool = True
    ) -> np.ndarray:
        """float64 `[W]`: how long each word lasts when it is said so, with the pause after it and without. See `fuse` for the
        arguments and errors."""
        fused = self.fuse(text, codes, voice)
        frames = self.decoder.lengths(fused, MAX_WORD_FRAMES).numpy()
        kept = np.ones(len(frames)) if pauses else ~fused.boundary.numpy()
        return np.bincount(fused.words.numpy(), weights=frames * kept) / FRAME_HZ

    @torch.no_grad()
    def say(self, text: str, codes: np.ndarray | None, voice: np.ndarray) -> Said:
        """The likeliest units of the text, said as the codes have it. See `fuse` for the arguments and errors."""
        fused = self.fuse(text, codes, voice)
        frames = self.decoder.lengths(fused, MAX_WORD_FRAMES)
        units = self.decoder(fused, frames)[0].argmax(-1)
        return Said(units.numpy(), torch.repeat_interleave(fused.words, frames).numpy())

    def samples(self, said: Said, codes: np.ndarray | None, voice: np.ndarray) -> np.ndarray:
        """The sound of units, float32 `[n]` at `rate_hz`. codes: those of the words, for pitch and loudness."""
        if self.sound is None:
            raise ValueError("no weights that make units sound")
        latents = np.zeros((len(said.words), self.model.quantiser.codebooks.shape[-1]), dtype=np.float32)
        if codes is not None:
            latents = self.model.quantiser.latent(torch.from_numpy(np.asarray(codes, dtype=np.int64))).numpy()[
                said.words
            ]
        return self.sound(said.units, latents, voice)


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
