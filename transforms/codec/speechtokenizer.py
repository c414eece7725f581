"""SpeechTokenizer (arXiv 2308.16692): a residual codec whose first book is distilled from HuBERT, through its own package."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.errors import UserError
from transforms.codec.codec import check_codebooks
from transforms.past_init import submodule
from transforms.weights import locate

INSTALL = "pip install einops==0.8.2 && pip install --no-deps speechtokenizer==1.0.1"
"""Without its dependencies, which are its trainer's: among them torchaudio, which breaks transformers where it does not load."""


class SpeechTokenizerCodec:
    """8 books of 1,024 at 50 Hz as published; `semantic` is 1: the first book carries what is said, the others the sound."""

    semantic = 1

    def __init__(self, model: str, n_codebooks: int | None) -> None:
        """Raises MissingWeights; UserError without the package, for another folder, or more codebooks than there are."""
        try:
            network = submodule("speechtokenizer", "model").SpeechTokenizer
        except ImportError as error:
            raise UserError(f"codec.backend speechtokenizer needs its package: {INSTALL} ({error})") from error
        weight = locate(model)
        try:
            config = json.loads((weight.path / "config.json").read_text(encoding="utf-8"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # it uses torch's older weight_norm
                self._network: Any = network(config)
            # The package's own `load_from_checkpoint` would unpickle it freely.
            state = torch.load(_checkpoint(weight.path), map_location="cpu", weights_only=True)
            self._network.load_state_dict(state)
            self.sample_rate_hz, self.hop = int(config["sample_rate"]), math.prod(map(int, config["strides"]))
            size, available = int(config["codebook_size"]), int(config["n_q"])
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"{weight.path}: not a SpeechTokenizer folder of config.json and one .pt file ({error})"
            ) from error
        self._network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.sha256 = weight.sha256
        self.sizes = (size,) * check_codebooks(n_codebooks, available, available, model)

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` at `sample_rate_hz` -> int64 `[K, ceil(n / hop)]`."""
        if not len(samples):
            return np.zeros((len(self.sizes), 0), dtype=np.int64)
        given = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None, None].to(self._device)
        return self._network.encode(given, n_q=len(self.sizes))[:, 0].cpu().numpy()

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int `[k, T]` of the first k books -> float32 `[T * hop]` at `sample_rate_hz`."""
        if not codes.shape[1]:
            return np.zeros(0, dtype=np.float32)
        given = torch.from_numpy(codes.astype(np.int64))[:, None].to(self._device)
        return self._network.decode(given).reshape(-1).float().cpu().numpy()

    @property
    def _device(self) -> torch.device:
        return next(self._network.parameters()).device


def _checkpoint(folder: Path) -> Path:
    """The one checkpoint in a folder.

    As published: SpeechTokenizer.pt in fnlp/SpeechTokenizer, ckpt.dev in fnlp/AnyGPT-speech-modules.

    Raises OSError where there is none, or several.
    """
    found = [*sorted(folder.glob("*.pt")), *sorted(folder.glob("*.dev"))]
    if len(found) != 1:
        raise FileNotFoundError(f"{len(found)} .pt or .dev files in it")
    return found[0]
