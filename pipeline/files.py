"""Files of a corpus, local or remote: whole-file reads, and writes that are either there or not.

A local write goes to a temporary name in the same folder, is synced, renamed, and the folder synced, so that a crash leaves
the old file or the new one and never a torn one. A remote path (`gs://...`) goes through Beam's filesystems, where an object
appears when it is closed.

What fails is a StorageError that names the file and says what to do. Remote calls that fail for a moment (429, 5xx, a dropped
connection, EIO) are tried again after `BACKOFF_S`; local ones are not: a full disk is no emptier a second later, and a disk that
fails is not to be trusted with a second try. Nothing is lost by giving up, since the same command goes on.

Only `open`, `os` and Beam's FileSystems touch a disk here: tests put failing ones in their place.
"""

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from schemas.errors import UserError

T = TypeVar("T")

TEMPORARY = ".tmp-"
"""Prefix of names that a crash may leave behind; `sweep` removes them."""

BACKOFF_S = (0.5, 2.0, 8.0)
"""Waits before a remote call is tried again."""

_TRANSIENT_CODES = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT_ERRNO = frozenset({errno.EIO, errno.EAGAIN, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE})
_ADVICE = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "your quota is used up: make room",
    errno.EFBIG: "the file would pass the size limit of this process or filesystem: raise it (`ulimit -f`)",
    errno.EACCES: "this user may not write there: change the permissions, or choose another folder",
    errno.EPERM: "this user may not write there: change the permissions, or choose another folder",
    errno.EROFS: "the filesystem is read-only: choose another folder",
    errno.EIO: "the disk or the mount failed: check it (`dmesg`)",
    errno.ESTALE: "the network mount went away: mount it again",
}


class StorageError(UserError, OSError):
    """A file that could not be written or read. `str()` names it, the cause and what to do."""

    def __str__(self) -> str:
        return str(self.args[0])


def _failed(verb: str, path: str, error: Exception) -> StorageError:
    number = error.errno if isinstance(error, OSError) else None
    cause = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
    advice = _ADVICE.get(number or 0, "mend that")
    made = StorageError(f"{path}: could not {verb}: {cause}; {advice}, and run the same command again: it goes on")
    made.errno = number
    return made


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


def is_transient(error: Exception) -> bool:
    """Whether a remote call that failed so may succeed a moment later."""
    inner = getattr(error, "exception_details", None)  # Beam's listing and deleting hand on one error for each path
    if isinstance(inner, dict) and inner:
        return all(isinstance(e, Exception) and is_transient(e) for e in inner.values())
    if getattr(error, "code", None) in _TRANSIENT_CODES or isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNO


def _remote(verb: str, path: str, call: Callable[[], T]) -> T:
    """A remote call, tried again where that makes sense. Raises FileNotFoundError, or StorageError."""
    for wait_s in (*BACKOFF_S, None):
        try:
            return call()
        except FileNotFoundError:
            raise
        except Exception as error:
            if wait_s is None or not is_transient(error):
                raise _failed(verb, path, error) from error
            time.sleep(wait_s)
    raise AssertionError


def write(path: str, data: bytes) -> None:
    """Write `data` to `path`, atomically. Makes missing folders. Raises StorageError (disk full, no permission)."""
    if is_remote(path):
        _remote("write", path, lambda: _write_remote(path, data))
        return
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f"{TEMPORARY}{os.getpid()}{secrets.token_hex(3)}-{name}")
    try:
        os.makedirs(folder or ".", exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            _unlink(temporary)
            raise
        handle = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise _failed("write", path, error) from error


def _write_remote(path: str, data: bytes) -> None:
    with _beam().create(path, compression_type="uncompressed") as stream:
        stream.write(data)


def _unlink(path: str) -> None:
    """Delete a temporary file if that works: where it does not, `sweep` will."""
    try:
        os.unlink(path)
    except OSError:
        return


def read(path: str) -> bytes:
    """All bytes of `path`. Raises FileNotFoundError, or StorageError."""
    if is_remote(path):
        return _remote("read", path, lambda: _read_remote(path))
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _failed("read", path, error) from error


def _read_remote(path: str) -> bytes:
    with _beam().open(path, compression_type="uncompressed") as stream:
        return bytes(stream.read())


def exists(path: str) -> bool:
    return bool(_remote("look for", path, lambda: _beam().exists(path))) if is_remote(path) else os.path.exists(path)


def names(folder: str, suffix: str) -> list[str]:
    """Names in `folder` that end in `suffix`, sorted, temporary ones left out; empty where there is no folder.

    Raises StorageError.
    """
    if is_remote(folder):
        pattern = join(folder, "*" + suffix)
        found = _remote("list", folder, lambda: _beam().match([pattern]))[0].metadata_list
        return sorted(m.path.rsplit("/", 1)[1] for m in found)
    try:
        found = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _failed("list", folder, error) from error
    return sorted(n for n in found if n.endswith(suffix) and not n.startswith(TEMPORARY))


def delete(path: str) -> None:
    """Delete `path`; nothing happens where it is not there. Raises StorageError."""
    if is_remote(path):
        if exists(path):
            _remote("delete", path, lambda: _beam().delete([path]))
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed("delete", path, error) from error


def temporaries(root: str) -> Iterator[str]:
    """Paths of what crashed runs left under a local `root`."""
    if not is_remote(root):
        for folder, _, found in os.walk(root):
            yield from (os.path.join(folder, name) for name in sorted(found) if name.startswith(TEMPORARY))


def sweep(root: str, mine: Callable[[str], bool] = lambda name: True) -> Iterator[str]:
    """Remove what crashed runs left under a local `root`, and yield each removed path.

    Args:
        mine: given the name that the temporary file was for, such as part-00003.parquet, whether it may be removed.
    """
    for path in temporaries(root):
        if mine(os.path.basename(path).removeprefix(TEMPORARY).partition("-")[2]):
            delete(path)
            yield path
