"""The checkpoint of a fit: written whole or not at all, and gone on from only where nothing else has changed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from transforms.taste.examples import Example
from transforms.taste.options import FitTasteOptions


def identity(options: FitTasteOptions, examples: list[Example], base_sha256: str) -> str:
    """SHA-256 over what a fit's result follows from: options, examples and the recogniser's parameters."""
    told = options.model_dump(mode="json", exclude={"folder", "data", "log_every", "save_every"})
    digest = hashlib.sha256(json.dumps([told, base_sha256], sort_keys=True).encode())
    for e in examples:
        digest.update(f"{e.id} {e.tokens.ids.tolist()}\n".encode())
        for tensor in (e.units, e.times, e.frames, e.voice):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def write(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at once: a kill leaves the one before or this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read(path: Path, wanted: str) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none.

    Raises:
        ValueError: it is of other options, other data or another recogniser than `wanted`, an `identity`; or cannot be read.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True)
        found = state["identity"]
    except Exception as error:  # torch tells of a damaged file in many ways
        raise ValueError(
            f"{path}: not a checkpoint of `antiphon fit taste` ({error!r}); remove it to begin again"
        ) from error
    if found != wanted:
        raise ValueError(
            f"{path}: a fit with other options or data was interrupted here; remove it to begin again, or undo that"
        )
    return dict(state)
