"""Files of a corpus, local or remote: whole-file reads, and writes that are either there or not.

A local write goes to a temporary name in the same folder, is synced, renamed, and the folder synced, so that a crash leaves
the old file or the new one and never a torn one. A remote path (`gs://...`) goes through Beam's filesystems, where an object
appears when it is closed.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
"""Prefix of names that a crash may leave behind; `sweep` removes them."""


def is_remote(path: str) -> bool:
    return "://" in path


def join(root: str, *parts: str) -> str:
    return "/".join([root.rstrip("/"), *parts]) if is_remote(root) else os.path.join(root, *parts)


def set_beam_args(beam_args: Sequence[str]) -> None:
    """Let Beam's own options, such as `--no_auth` for a public bucket, hold for reading and writing remote files too."""
    if beam_args:
        from apache_beam.options.pipeline_options import PipelineOptions

        _beam().set_options(PipelineOptions(list(beam_args)))


def _beam() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def write(path: str, data: bytes) -> None:
    """Write `data` to `path`, atomically. Makes missing folders. Raises OSError (disk full, no permission)."""
    if is_remote(path):
        with _beam().create(path, compression_type="uncompressed") as stream:
            stream.write(data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: str) -> bytes:
    """All bytes of `path`. Raises FileNotFoundError or OSError."""
    if is_remote(path):
        with _beam().open(path, compression_type="uncompressed") as stream:
            return bytes(stream.read())
    return Path(path).read_bytes()


def exists(path: str) -> bool:
    return bool(_beam().exists(path)) if is_remote(path) else os.path.exists(path)


def names(folder: str, suffix: str) -> list[str]:
    """Names in `folder` that end in `suffix`, sorted, temporary ones left out; empty where there is no folder."""
    if is_remote(folder):
        found = _beam().match([join(folder, "*" + suffix)])[0].metadata_list
        return sorted(m.path.rsplit("/", 1)[1] for m in found)
    if not os.path.isdir(folder):
        return []
    return sorted(n for n in os.listdir(folder) if n.endswith(suffix) and not n.startswith(TEMPORARY))


def delete(path: str) -> None:
    """Delete `path`; nothing happens where it is not there."""
    if is_remote(path):
        if exists(path):
            _beam().delete([path])
    else:
        Path(path).unlink(missing_ok=True)


def sweep(root: str) -> Iterator[str]:
    """Remove what crashed runs left under a local `root`, and yield each removed path."""
    if is_remote(root):
        return
    for folder, _, files in os.walk(root):
        for name in files:
            if name.startswith(TEMPORARY):
                os.unlink(os.path.join(folder, name))
                yield os.path.join(folder, name)
