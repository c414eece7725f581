"""Whisper in whisper.cpp's GGML file -> the checkpoint that `whisper.load_model` reads.

The format, little-endian (whisper.cpp, models/convert-pt-to-ggml.py): magic, eleven int32 of sizes, the mel filters, the
vocabulary, then tensors to the end of the file: int32 number of dimensions, length of the name, type (0 = float32,
1 = float16), the dimensions in reverse, the name, the values.
"""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_MAGIC = 0x67676D6C
_DIMS = (
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
    "n_mels",
)
_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}


def convert(fetched: Path, target: Path) -> None:
    """`fetched` holds one `.bin` file; `target` becomes {dims, model_state_dict}, in float16 as the publisher's own is."""
    import torch

    (path,) = fetched.glob("*.bin")
    dims, tensors = read_ggml(path)
    state = {name: torch.from_numpy(values).to(torch.float16) for name, values in tensors.items()}
    torch.save({"dims": dims, "model_state_dict": state}, target)


def read_ggml(path: Path) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """The sizes and the tensors of a GGML Whisper, under openai-whisper's names and shapes.

    Raises:
        ValueError: the file is not one, ends early, or holds quantized tensors.
    """
    with path.open("rb") as file:
        magic, *sizes, _ftype = _ints(file, 12)
        if magic != _MAGIC:
            raise ValueError(f"{path}: starts with {magic:#010x}, a GGML Whisper with {_MAGIC:#010x}")
        dims = dict(zip(_DIMS, sizes, strict=True))
        n_mels, n_bins = _ints(file, 2)
        file.seek(4 * n_mels * n_bins, 1)
        for _ in range(_ints(file, 1)[0]):
            file.seek(_ints(file, 1)[0], 1)
        tensors = {}
        end = path.stat().st_size
        while file.tell() < end:
            name, values = _tensor(file)
            tensors[name] = values
    for name, values in tensors.items():
        # GGML keeps the biases of the two convolutions as columns, so that it can add them to [channels, frames].
        if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
            tensors[name] = values.reshape(-1)
    return dims, tensors


def _tensor(file: BinaryIO) -> tuple[str, np.ndarray]:
    n_dims, name_length, kind = _ints(file, 3)
    shape = _ints(file, n_dims)[::-1]
    name = _read(file, name_length).decode()
    if kind not in _TYPES:
        raise ValueError(f"{file.name}: tensor {name} is of type {kind}; only float32 (0) and float16 (1) are read")
    values = _read(file, math.prod(shape) * _TYPES[kind].itemsize)
    return name, np.frombuffer(values, _TYPES[kind]).reshape(shape).copy()


def _ints(file: BinaryIO, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}i", _read(file, 4 * count))


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError(f"{file.name}: ends {count - len(data)} bytes early")
    return data
