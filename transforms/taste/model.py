"""The TASTE tokenizer: an utterance's samples and words -> one code tuple for each word. And its file.

Stored is only what fitting changed; the recogniser's checkpoint brings the rest. The hash of its parameters is in the file, so
that a file fitted on another checkpoint is refused instead of giving codes that mean nothing.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from schemas.errors import UserError
from transforms.taste.aggregator import RATE_HZ, Aggregator, EncoderStates, encoder_states, word_mean
from transforms.taste.rvq import ResidualVQ
from transforms.taste.words import WordTokens, tokenize_words
from transforms.units.encoder import parameters_sha256

if TYPE_CHECKING:
    from whisper import Whisper

WINDOW = 30 * RATE_HZ
"""Samples of Whisper's window."""

_CARD = "antiphon"
"""The one key of the file's metadata: with several, safetensors would not write the same bytes each time."""


class WrongTokenizer(UserError):
    """The file is no TASTE tokenizer, or it was fitted on another recogniser."""


class TasteTokenizer(nn.Module):
    """Whisper's frozen encoder, the aggregator and the quantiser.

    Attributes:
        shape: the arguments it was made with, as they stand in the file's card.
        dim: D, the width of the encoder's states and of a word's vector before quantisation.
        base_sha256: of the recogniser's parameters.
    """

    def __init__(
        self,
        whisper: "Whisper",
        *,
        layers: tuple[int, ...] = (0, 1),
        value_layer: int = 2,
        levels: int = 4,
        size: int = 512,
        code_dim: int = 128,
        decay: float = 0.99,
        dropout: float = 0.5,
        padded: bool = False,
        timed: bool = False,
    ) -> None:
        """
        Args:
            layers: decoder layers that the aggregator starts from.
            value_layer: number of encoder layers that the values have passed through.
            padded: hear a window of 30 s, silence behind the utterance, as the paper's tokenizer was fitted; otherwise the
                utterance's own length. timed: of the aggregator.
            levels, size, code_dim: of the quantiser. decay, dropout: of the same, in fitting.

        Raises:
            ValueError: more layers than the recogniser has.
        """
        super().__init__()
        for what, layer, there in (
            ("value_layer", value_layer, len(whisper.encoder.blocks)),
            ("layers", max(layers) + 1, len(whisper.decoder.blocks)),
        ):
            if layer > there:
                part = "encoder" if what == "value_layer" else "decoder"
                raise ValueError(f"{what} {layer}: the recogniser's {part} has {there} layers")
        self.shape: dict[str, Any] = {
            "layers": list(layers),
            "value_layer": value_layer,
            "levels": levels,
            "size": size,
            "code_dim": code_dim,
        }
        if padded:
            self.shape["padded"] = True
        if timed:
            self.shape["timed"] = True
        self.dim = whisper.dims.n_audio_state
        self.base_sha256 = parameters_sha256(whisper)
        self.value_layer, self.padded = value_layer, padded
        self.is_multilingual, self.n_languages = whisper.is_multilingual, whisper.num_languages
        self.encoder = whisper.encoder
        self.aggregator = Aggregator(whisper, layers, timed)
        self.quantiser = ResidualVQ(self.dim, levels=levels, size=size, code_dim=code_dim, decay=decay, dropout=dropout)
        self.to(whisper.device)

    def tokenize(self, text: str) -> WordTokens:
        """The text's words and the recogniser's subwords. What looks like a special token is encoded as the text it is."""
        tokenizer = _tokenizer(self.is_multilingual, self.n_languages, "en")
        return tokenize_words(text, lambda word: tokenizer.encode(word, disallowed_special=()))

    def prefix(self, language: str) -> Tensor:
        """int64 `[P]`: the decoder's prompt. Raises ValueError for a language that Whisper does not know."""
        tokenizer = _tokenizer(self.is_multilingual, self.n_languages, language)
        return torch.tensor(tokenizer.sot_sequence_including_notimestamps, device=self.device)

    @property
    def device(self) -> torch.device:
        return self.quantiser.codebooks.device

    def check(self, tokens: WordTokens, prefix: Tensor) -> None:
        """Raise ValueError, with both numbers, where the text is longer than the decoder's positions reach."""
        length, reach = len(prefix) + len(tokens.ids), self.aggregator.max_tokens
        if length > reach:
            raise ValueError(f"{len(tokens.words)} words are {length} tokens; the recogniser reads at most {reach}")

    def states(self, samples: np.ndarray) -> EncoderStates:
        """float32 `[n]` at 16 kHz -> keys and values, `[T, D]` each. Raises ValueError beyond 30 s."""
        if self.padded and len(samples) < WINDOW:
            samples = np.pad(samples, (0, WINDOW - len(samples)))
        return encoder_states(self.encoder, samples, self.value_layer)

    @torch.no_grad()
    def codes(self, samples: np.ndarray, text: str, language: str) -> np.ndarray:
        """One code tuple for each word, int16 `[W, R]`.

        Args:
            samples: float32 `[n]` at 16 kHz, at most 30 s. text: its words, W of them. language: ISO 639-1 code.

        Raises:
            ValueError: more audio or more text than Whisper's windows hold, or an unknown language.
        """
        tokens, prefix = self.tokenize(text), self.prefix(language)
        self.check(tokens, prefix)
        if not tokens.words:
            return np.zeros((0, len(self.quantiser.sizes)), dtype=np.int16)
        keys, values = self.states(samples)
        heard = torch.ones(1, len(keys), dtype=torch.bool, device=self.device)
        ids, word_ids = (torch.from_numpy(a).to(self.device) for a in (tokens.ids, tokens.word_ids))
        vectors = self.aggregator(prefix, ids[None], keys[None], values[None], heard)[0]
        words = word_mean(vectors, word_ids, len(tokens.words))
        return self.quantiser.encode(words).cpu().numpy().astype(np.int16)

    @torch.no_grad()
    def latents(self, codes: np.ndarray) -> np.ndarray:
        """Codes `[W, R]` -> float16 `[W, code_dim]`: the sum of each word's codebook entries."""
        indices = torch.from_numpy(codes.astype(np.int64)).to(self.device)
        return self.quantiser.latent(indices).cpu().numpy().astype(np.float16)

    def fitted(self) -> dict[str, Tensor]:
        """The tensors that fitting changes: trained parameters and codebooks."""
        trained = {
            name: p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("encoder.")
        }
        return trained | {"quantiser.codebooks": self.quantiser.codebooks}


def save(path: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write tensors as float16 with a JSON card in the header. The same tensors and card give the same bytes."""
    halves = {name: tensor.detach().cpu().half().contiguous() for name, tensor in sorted(tensors.items())}
    save_file(halves, path, metadata={_CARD: json.dumps(card, sort_keys=True)})


def read_card(path: Path) -> dict[str, Any]:
    """The card of a file that `save` wrote. Raises WrongTokenizer for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {})[_CARD]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WrongTokenizer(f"{path}: not a file that `antiphon fit taste` wrote ({error!r})") from error


def load(path: Path, whisper: "Whisper") -> TasteTokenizer:
    """The fitted tokenizer on top of `whisper`, in evaluation mode.

    Raises:
        WrongTokenizer: the file was fitted on a checkpoint with other parameters, or is none of `save`'s.
    """
    card = read_card(path)
    base = card["base"]
    found = parameters_sha256(whisper)
    if base["parameters_sha256"] != found:
        raise WrongTokenizer(
            f"{path}: fitted on {base['name']}, whose parameters have sha256 {base['parameters_sha256']}; those of the "
            f"recogniser given have {found}. Name that checkpoint as `recogniser`, or fit again with `antiphon fit taste`"
        )
    shape = card["shape"] | {"layers": tuple(card["shape"]["layers"])}
    model = TasteTokenizer(whisper, **shape)
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, tensor in model.fitted().items():
            tensor.copy_(file.get_tensor(name))
    return model.eval()


@lru_cache
def _tokenizer(multilingual: bool, n_languages: int, language: str) -> Any:
    from whisper.tokenizer import get_tokenizer

    return get_tokenizer(multilingual, num_languages=n_languages, language=language, task="transcribe")
