"""`antiphon inspect`: rows of a corpus, for people to read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline import files, shards
from pipeline.store import Store
from schemas import record as records
from schemas.errors import UserError
from schemas.show import show


def read_rows(corpus: str, folder: str = "data") -> Iterator[dict[str, Any]]:
    """Rows of the committed Parquet shards (`data`) or of the rejections (`rejected`), in order.

    Raises UserError where the corpus has no such files.
    """
    store = Store(corpus)
    found = False
    commits = store.commits().values()
    if not commits:
        raise UserError(f"{corpus}: no corpus here (there is no commit record)")
    for commit in commits:
        for name in commit.files:
            if name.startswith(f"{folder}/"):
                found = True
                yield from shards.read_parquet(files.read(store.path(*name.split("/"))))
    if not found:
        raise UserError(f"{corpus}: no committed Parquet shard in {folder}/; was it written as webdataset only?")


def describe_row(row: Mapping[str, Any]) -> str:
    """A row as a paragraph: where it comes from, its words with their times, its tokens, its measures."""
    lines = [
        f"{show(row['id'])}  {show(row['source'])} [{row['start_s']:.2f} .. {row['end_s']:.2f} s] "
        f"{row['duration_s']:.2f} s  {show(row['language'])} {show(row['origin'])} {show(row['split'])}",
        f"  text   {show(row['text'])}",
        "  words  "
        + " ".join(f"{show(w['text'])}|{w['start_s']:.2f}-{w['end_s']:.2f}|{show(w['how'])}" for w in row["words"]),
    ]
    if row["units"] is not None:
        frames = sum(row["unit_run_lengths"])
        lines.append(f"  units  {len(row['units'])} of {frames} frames: {_head(row['units'])}")
    if row["codec_codes"] is not None:
        books = row["codec_codes"]
        lines.append(f"  codec  {len(books)} x {len(books[0])}: " + " | ".join(_head(book, 6) for book in books[:4]))
    if row.get("codec_latents") is not None:
        values = row["codec_latents"]
        width = len(values[0]) if values else 0
        lines.append(f"  latent {len(values)} x {width}: " + " ".join(f"{x:.2f}" for x in (values or [[]])[0][:8]))
    if row["taste_codes"] is not None:
        lines.append("  taste  " + " ".join("/".join(map(str, codes)) for codes in row["taste_codes"][:8]))
    # A corpus of an older version has fewer columns.
    measures = [n for n, field in records.FIELDS.items() if field.column and isinstance(row.get(n), float)]
    lines.append("  " + "  ".join(f"{name} {row[name]:.3g}" for name in measures))
    return "\n".join(lines)


def _head(values: Sequence[int], count: int = 16) -> str:
    return " ".join(map(str, values[:count])) + (" ..." if len(values) > count else "")


def run_inspect(corpus: str, row_id: str | None, rows: int, rejected: bool, wav: str | None) -> int:
    """Print rows or rejections, or write one row's audio to a wav file."""
    if rejected:
        for found in read_rows(corpus, "rejected"):
            print(
                f"{show(found['reason']):<14} {show(found['stage']):<10} {show(found['source'])} "
                f"[{found['start_s']:.2f} .. {found['end_s']:.2f} s] {show(found['detail'])}"
            )
        return 0
    shown = 0
    for row in read_rows(corpus):
        if row_id and not row["id"].startswith(row_id):
            continue
        print(describe_row(row), end="\n\n")
        if wav:
            if not row_id:
                raise UserError("--wav writes one row: name it with --id")
            _write_wav(row["audio"]["bytes"], wav)
        shown += 1
        if shown >= rows or (wav and row_id):
            break
    if row_id and not shown:
        raise UserError(f"{corpus}: no row whose id starts with {row_id}")
    return 0


def run_layout(
    corpus: str,
    name: str,
    assignments: Sequence[str],
    trunk: str,
    row_id: str | None,
    rows: int,
    steps: int,
    first: int = 0,
) -> int:
    """Print examples as a layout puts them in sequence, each as a table of rows and steps.

    Args:
        assignments: options of the layout, `a=b`. trunk: whose tokenizer writes the words; empty for the default of `train`.
        row_id: only the example whose id begins so. steps, first: how many positions to draw, and from which on.

    Raises UserError for a layout or option that there is not, a trunk without a tokenizer, or a corpus without the streams.
    """
    from pipeline.config import options_of
    from training.layouts import NAMES, make
    from training.layouts.drawing import draw, summary
    from training.options import TrainOptions
    from training.reader import Corpus
    from training.text import load_text
    from transforms.weights import locate

    if name not in NAMES:
        raise UserError(f"no layout {name!r}; there are {', '.join(NAMES)}")
    options = options_of(NAMES[name], [*assignments, f"name={name}"], f"layout {name}")
    opened = Corpus(corpus)
    text = load_text(locate(trunk or TrainOptions().trunk).path)
    layout = make(options, text.vocabulary, opened.cards)
    starts = text.vocabulary.starts_word

    def written(i: int) -> str:
        piece = text.tokenizer.decode([i]).strip() or "_"  # a token that is a space
        return piece if starts[i] else f"-{piece}"

    shown = 0
    for shard in opened.shards:
        try:
            for example in layout.examples(opened.rows(None, layout.columns, shards=[shard]), text.encode):
                if shown == rows or not example.id.startswith(row_id or ""):
                    continue
                laid = layout.apply(example)
                print(f"{show(example.id)}  {example.audio_s:.2f} s  layout {name}: {summary(layout, laid)}")
                print(show("\n".join(draw(layout, laid, written, steps, first=first)), keep="\n"), end="\n\n")
                shown += 1
        except ValueError as error:
            raise UserError(f"{shard.path}: {error}") from None
    if row_id and not shown:
        raise UserError(f"{corpus}: no row whose id starts with {row_id}")
    return 0


def _write_wav(flac: bytes, path: str) -> None:
    import io

    import soundfile

    samples, rate_hz = soundfile.read(io.BytesIO(flac), dtype="int16")
    soundfile.write(path, samples, rate_hz)
    print(f"audio: {path}")
