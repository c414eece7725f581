"""One Whisper a process: transcription, units and TASTE share its weights, and units and TASTE one pass over the audio."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transforms.weights import locate

if TYPE_CHECKING:
    from torch import Tensor
    from whisper.model import AudioEncoder, Whisper

_KEPT_BYTES = 256 << 20
"""Layers of the utterances last heard: three of Whisper large on a block of five minutes are 230 MB, of tiny 70."""


def load_whisper(name: str) -> "Whisper":
    """The model of a checkpoint by name or path, on the GPU where there is one: a file in openai-whisper's own format, or a
    Hugging Face folder (distil-whisper).

    Raises MissingWeights where it is not on this machine: nothing is downloaded here. WrongWhisper for a folder of another model.
    """
    return _load(locate(name).path)


@cache
def _load(path: Path) -> "Whisper":
    import torch
    import whisper

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if path.is_dir():
        from transforms.transcribe.hf_whisper import read_whisper

        return read_whisper(path).to(device)
    # Given a path, openai-whisper loads with `weights_only=True` and never reaches for the network.
    model = whisper.load_model(str(path), device=device)
    return model.eval()


class EncoderPass:
    """Layers of one Whisper encoder on utterances of their own length, each computed once for all stages that ask.

    Each utterance runs alone, so no layer depends on what else is in a block, and one that was kept is the same bits as one
    computed again: what is thrown away costs time only.
    """

    def __init__(self, encoder: "AudioEncoder") -> None:
        self._encoder = encoder
        self._wanted: dict[str, frozenset[int]] = {}
        self._kept: OrderedDict[bytes, dict[int, Tensor]] = OrderedDict()
        self._bytes = 0
        self.blocks_run = 0
        """Transformer layers that were computed so far, over all utterances."""

    def want(self, stage: str, layers: Sequence[int]) -> None:
        """Say what a stage will ask for. Only with two or more stages is anything kept."""
        self._wanted[stage] = frozenset(layers)

    def layers(self, samples: np.ndarray, layers: Sequence[int]) -> "list[Tensor]":
        """float32 `[n]` at 16 kHz -> for each 1-based layer (0 is what enters the first) `[ceil(n / 320), D]`.

        The log-mel spectrogram and the positional embedding are cut to the utterance. Raises ValueError beyond 30 s.
        """
        import torch

        states: dict[int, Tensor] = {}
        key = b""
        if len(self._wanted) > 1:
            key = hashlib.blake2b(np.ascontiguousarray(samples).tobytes(), digest_size=16).digest()
            states = self._kept.pop(key, {})
            self._bytes -= _size(states)
        keep = frozenset().union(*self._wanted.values(), layers)
        with torch.no_grad():
            self._run(samples, states, max(layers), keep)
        found = [states[layer] for layer in layers]
        if key:
            self._kept[key] = states
            self._bytes += _size(states)
            while self._bytes > _KEPT_BYTES:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        return found

    def _run(self, samples: np.ndarray, states: "dict[int, Tensor]", last: int, keep: frozenset[int]) -> None:
        """Fill in `states` up to layer `last`, going on from the deepest layer that is there."""
        done = max((layer for layer in states if layer <= last), default=-1)
        hidden = states[done] if done >= 0 else self._front(samples)
        for layer in range(max(done, 0), last + 1):
            if layer > max(done, 0):
                hidden = self._encoder.blocks[layer - 1](hidden[None])[0]
                self.blocks_run += 1
            if layer in keep:
                states[layer] = hidden

    def _front(self, samples: np.ndarray) -> "Tensor":
        import torch
        from torch.nn import functional as F
        from whisper.audio import log_mel_spectrogram

        encoder = self._encoder
        sound = torch.from_numpy(np.ascontiguousarray(samples))
        mel = log_mel_spectrogram(sound, encoder.conv1.in_channels, device=encoder.conv1.weight.device)
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel[None])))).transpose(1, 2)[0]
        reach = len(encoder.positional_embedding)
        if len(hidden) > reach:
            raise ValueError(f"{len(hidden) / 50} s of audio; the encoder reads at most {reach / 50} s")
        return hidden + encoder.positional_embedding[: len(hidden)]


def encoder_pass(encoder: "AudioEncoder") -> EncoderPass:
    """The one pass of an encoder, as long as that lives."""
    shared = getattr(encoder, "_antiphon_pass", None)
    if shared is None:
        shared = EncoderPass(encoder)
        # Not as a submodule: the pass holds the encoder.
        object.__setattr__(encoder, "_antiphon_pass", shared)
    return shared


def _size(states: "dict[int, Tensor]") -> int:
    return sum(state.numel() * state.element_size() for state in states.values())
