"""SNAC (hubertsiuzdak/snac): a residual codec whose levels run at different rates, through its own package."""

import json
import math
from typing import Any

import numpy as np
import torch

from schemas.errors import UserError
from transforms.codec.codec import check_codebooks
from transforms.weights import locate


class SnacCodec:
    """One frame is one step of the slowest level and holds `2 ** i` or so codes of the faster ones: rows of a `[K, T]` like any.

    SNAC at 24 kHz gives codes at 11.7, 23.4 and 46.9 Hz. Here a frame of 2048 samples has seven rows: the one code of the first
    level, then the two of the second and the four of the third in their order in time. `levels` is (1, 2, 4).
    """

    def __init__(self, model: str, n_codebooks: int | None) -> None:
        """Raises MissingWeights; UserError without the package, for another folder, or fewer codebooks than all."""
        try:
            from snac import SNAC
        except ImportError as error:
            raise UserError(f"codec.backend snac needs its package: pip install 'antiphon[snac]' ({error})") from error
        weight = locate(model)
        try:
            self._network: Any = SNAC(**json.loads((weight.path / "config.json").read_text(encoding="utf-8")))
            # SNAC.from_pretrained would unpickle it freely.
            state = torch.load(weight.path / "pytorch_model.bin", map_location="cpu", weights_only=True)
            self._network.load_state_dict(state)
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{weight.path}: not a SNAC folder of config.json and pytorch_model.bin ({error})"
            ) from error
        self._network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.sha256 = weight.sha256
        self.sample_rate_hz = int(self._network.sampling_rate)
        strides = [int(stride) for stride in self._network.vq_strides]
        self.hop = int(self._network.hop_length) * strides[0]
        self.levels = tuple(strides[0] // stride for stride in strides)
        rows = sum(self.levels)
        if check_codebooks(n_codebooks, rows, rows, model) != rows:
            raise UserError(f"codec.n_codebooks is {n_codebooks}; SNAC's decoder takes all {rows} rows of {model}")
        self.sizes = (int(self._network.codebook_size),) * rows
        self.semantic = 0

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[n]` at `sample_rate_hz` -> int64 `[K, ceil(n / hop)]`.

        SNAC pads to whole windows of its attention; frames that are padding alone are cut off.
        """
        n_frames = -(-len(samples) // self.hop)
        if n_frames == 0:
            return np.zeros((len(self.sizes), 0), dtype=np.int64)
        device = next(self._network.parameters()).device
        given = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None, None].to(device)
        # [1, T * rate] each -> [rate, T]: a frame's codes of one level, in the order of time, are rows.
        levels = [
            codes[0].cpu().numpy().reshape(-1, rate).T
            for codes, rate in zip(self._network.encode(given), self.levels, strict=True)
        ]
        return np.concatenate(levels)[:, :n_frames]

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int `[K, T]` -> float32 `[T * hop]` at `sample_rate_hz`. The same codes give the same sound."""
        n_frames = codes.shape[1]
        if n_frames == 0:
            return np.zeros(0, dtype=np.float32)
        window = self._network.attn_window_size or 1
        # As many frames as its encoder would have given: whole windows of the attention. The last frame is repeated.
        whole = math.lcm(self.hop, int(self._network.hop_length) * window) // self.hop
        padded = np.pad(codes.astype(np.int64), ((0, 0), (0, -n_frames % whole)), mode="edge")
        device = next(self._network.parameters()).device
        levels, at = [], 0
        for rate in self.levels:
            levels.append(torch.from_numpy(padded[at : at + rate].T.reshape(1, -1).copy()).to(device))
            at += rate
        # Its decoder adds noise, drawn anew each time.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sound = self._network.decode(levels).reshape(-1).float().cpu().numpy()
        return sound[: n_frames * self.hop]
