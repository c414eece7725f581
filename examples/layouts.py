"""docs/layouts.md, drawn from rows of real corpora.

python -m examples.layouts CORPUS DIALOGUES > docs/layouts.md

CORPUS: made with configs/demo.yaml, or any other with words, units, codec and TASTE codes. DIALOGUES: made by `antiphon dialogues`.
"""

import argparse
import inspect
import sys

from training.layouts import LAYOUTS, NAMES, make
from training.layouts.base import Layout, LayoutOptions
from training.layouts.drawing import draw, summary
from training.options import TrainOptions
from training.reader import Corpus
from training.text import load_text
from transforms.weights import locate

STEPS = 22

HEAD = """\
# Layouts

A layout turns a row of a corpus into a sequence of steps, each with one id or none in every row of ids, and back: `undo(apply(x))`
is `x` for every one of them (`tests/training/test_layout_laws.py`). Streams lie in the corpus undelayed and in their own time, so
all of these are made from one corpus when it is read. Choose one in the config, and look at it before training:

    train: {layout: {name: glm-4-voice}}
    antiphon inspect CORPUS --layout glm-4-voice --steps 40

The text row holds ids of the trunk's own tokenizer; speech rows have vocabularies and softmaxes of their own, and the marks that
switch between them are ids of the row that says them, so no label of one modality is weighed against another's. `labels[p]` is
`inputs[p + 1]` or nothing, so what is sampled can be fed back as it is. A corpus without what a layout needs is refused, naming the
stage that makes it. Options of each: `antiphon config train`.

Drawn below, by `python -m examples.layouts`, from one row of LJSpeech (9.65 s; public domain) and one dialogue spoken by a TTS,
with the embedded tokenizers and the tokenizer of stories15m; "a second" is steps for each second of sound in that row. An id in
brackets is given and not learnt; a dot is nothing.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs=2, metavar=("CORPUS", "DIALOGUES"))
    arguments = parser.parse_args()
    sections = [section(options, names, arguments.corpora) for options, names in by_class().items()]
    table = ["| layout | needs | rows | steps a second |", "|---|---|---|---|"]
    table += [row for rows, _ in sections for row in rows]
    sys.stdout.write("\n".join([HEAD, *table, "", *(text for _, text in sections)]))


def by_class() -> dict[type[LayoutOptions], list[str]]:
    """The layouts' names, by the class of their options."""
    return {options: [name for name, own in NAMES.items() if own is options] for options in LAYOUTS}


def section(options: type[LayoutOptions], names: list[str], corpora: list[str]) -> tuple[list[str], str]:
    """Lines of the table, and a section of the page."""
    module = inspect.getmodule(LAYOUTS[options])
    assert module
    assert module.__doc__
    about = module.__doc__.strip()
    rows, parts = [], []
    for name in names:
        layout, drawn, rate = example(options(name=name), corpora)  # type: ignore[call-arg]
        needs = ", ".join(sorted({c for c in layout.columns if c not in ("id", "duration_s")}))
        rows.append(f"| `{name}` | {needs} | {len(layout.rows)} | {rate:.1f} |")
        parts.append(f"### {name}\n\n```\n{drawn}\n```\n")
    return rows, f"## {', '.join(names)}\n\n```\n{about}\n```\n\n" + "\n".join(parts)


def example(options: LayoutOptions, corpora: list[str]) -> tuple[Layout, str, float]:
    """A layout, the first example that it takes drawn as a table, and its steps for each second of sound."""
    text = load_text(locate(TrainOptions.model_fields["trunk"].default).path)
    starts = text.vocabulary.starts_word

    def written(i: int) -> str:
        piece = text.tokenizer.decode([i]).strip()
        return piece if starts[i] else f"-{piece}"

    refused = ""
    for folder in corpora:
        corpus = Corpus(folder)
        layout = make(options, text.vocabulary, corpus.cards)
        try:
            for shard in corpus.shards:
                for found in layout.examples(corpus.rows(None, layout.columns, shards=[shard]), text.encode):
                    laid = layout.apply(found)
                    lines = draw(layout, laid, written, STEPS, width=110)
                    drawn = "\n".join([f"{found.audio_s:.2f} s: {summary(layout, laid)}", *lines]).rstrip()
                    return layout, drawn, len(laid.inputs) / found.audio_s
        except ValueError as error:
            refused = str(error)
    raise SystemExit(f"{options}: {refused or 'no example in either corpus'}")


if __name__ == "__main__":
    main()
