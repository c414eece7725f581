"""What a row of the table of weights holds, and the rows that can be named without being written down."""

import re
from dataclasses import dataclass

from schemas.errors import UserError
from transforms.weights.sources import File, HubRepository, Source, Url


class UnknownWeights(UserError):
    """A name that is no row of the table. The message lists the names."""


@dataclass(frozen=True)
class Model:
    """Weights (or a sample of speech) that can be pulled by name."""

    name: str
    about: str
    licence: str
    stored: str
    """The file, or the folder, that it is kept under."""
    size_bytes: int
    """Of what is kept; the sources differ by a few kilobytes. 0 where it is not known."""
    sources: tuple[tuple[Source, str], ...]
    """In the order they are tried; each with the module of `convert` that it goes through, "" where it is kept as it comes."""
    sha256: str = ""
    """Of what is kept (`find.hash_path`), where every source gives the same bytes."""


def model(name: str) -> Model:
    """The row of that name; else any Whisper as `whisper-NAME`; else a hub's repository as `owner/name` or `owner/name@revision`.

    Raises:
        UnknownWeights: it is none of these.
    """
    from transforms.weights.rows import MODELS

    if name in MODELS:
        return MODELS[name]
    if name.startswith("whisper-"):
        return _whisper(name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        repository, _, revision = name.partition("@")
        source = HubRepository(repository, revision or "main")
        return Model(
            name, "a repository of the model hub", "see its page on the hub", stored_name(name), 0, ((source, ""),)
        )
    raise UnknownWeights(
        f"no weights are called {name!r}; there are {', '.join(MODELS)}, whisper-NAME for the other sizes of Whisper, and "
        "owner/name for any repository of the model hub"
    )


def stored_name(name: str) -> str:
    """The file or folder that a name is kept under; a hub's `owner/name@revision` becomes `owner--name@revision`."""
    from transforms.weights.rows import MODELS

    return MODELS[name].stored if name in MODELS else name.replace("/", "--")


def _whisper(name: str) -> Model:
    """A size of Whisper beyond tiny, from openai-whisper's own list, whose addresses hold each file's SHA-256."""
    import whisper

    size = name.removeprefix("whisper-")
    if size not in whisper._MODELS:
        raise UnknownWeights(f"no Whisper is called {size!r}; there are {', '.join(whisper.available_models())}")
    address, sha256, file = whisper._MODELS[size].rsplit("/", 2)
    stored = f"{name}.pt"
    source = Url(f"{address}/", (File(f"{sha256}/{file}", stored, sha256),))
    return Model(name, f"OpenAI Whisper {size}, speech recognition", "MIT", stored, 0, ((source, ""),), sha256)
