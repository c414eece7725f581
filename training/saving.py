"""What saving a checkpoint and writing the log share: syncing, and errors that say what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from schemas.errors import UserError


class NotSaved(UserError):
    """A file of a training run that could not be written. `str()` names it, the cause and what to do."""


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Raise NotSaved, naming `path`, for what an operating system, torch or safetensors says when a write fails."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch's and safetensors' own errors carry the cause in their text, if at all.
        cause = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
        full = (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in cause
        advice = "make room" if full else "mend that"
        raise NotSaved(
            f"{path}: could not write: {' '.join(cause.split())[:300]}; {advice}, and run the same command again: "
            "it goes on from the last checkpoint"
        ) from error


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
