"""docs/layouts.md, drawn from rows of real corpora.

python -m examples.layouts CORPUS DIALOGUES > docs/layouts.md

CORPUS: made with configs/demo.yaml and `--set codec.latents=true`, or any other with words, units, codec codes, latents and
TASTE codes. DIALOGUES: made by `antiphon dialogues`.
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
FIRST = {"latents": 22, "valle-nar": 98}
"""By layout: from which step on, where the first ones hold text or a prompt alone."""

SYSTEMS = {
    "taste": ("TASLM: fused, codes one word late", "taste, words"),
    "codec": ("Moshi's inner monologue, one speaker", "codec, word times"),
    "moshi": ("Moshi, two speakers", "codec, word times; dialogues or channels"),
    "text": ("any text LM", "words"),
    "units": ("TWIST, GSLM", "units"),
    "text-speech": ("text, then its speech", "units, words"),
    "spectron": ("Spectron: heard speech, its text and what follows, its speech", "units, word times"),
    "speechgpt": ("SpeechGPT's chain of modality", "units, words; dialogues"),
    "spirit-lm": ("Spirit-LM: random spans of words", "units, word times"),
    "sims": ("SIMS: Poisson spans of words", "units, word times"),
    "glm-4-voice": ("GLM-4-Voice, 13 : 26", "units, words"),
    "llama-omni2": ("LLaMA-Omni2, 3 : 10", "units, words"),
    "cosyvoice2": ("CosyVoice 2, 5 : 15", "units, words"),
    "step-audio": ("Step-Audio, two streams 2 : 3", "units, codec"),
    "llama-omni": ("LLaMA-Omni: CTC on text's states", "units, words"),
    "mini-omni": ("Mini-Omni: codebook k late by k + 1", "codec, words"),
    "kimi-audio": ("Kimi-Audio: units late by six", "units, words"),
    "speechgpt2": ("SpeechGPT-2.0-preview: three frames a step", "codec, words"),
    "csm": ("CSM: text rows, then audio rows", "codec, words; dialogues if there are"),
    "delay": ("MusicGen: delays 0, 1, 2, ...", "codec"),
    "parallel": ("all codebooks at once", "codec"),
    "acoustic-delay": ("delay 0, 1, 1, ... (with a depth transformer: exact)", "codec"),
    "flatten": ("one code a step, frame by frame", "codec"),
    "coarse-first": ("one code a step, codebook by codebook", "codec"),
    "vall-e": ("VALL-E: text, then coarse-first", "codec, words"),
    "valle-nar": ("VALL-E's second stage: each further codebook at once", "codec, words"),
    "audiolm-coarse": ("AudioLM's second stage: units, then coarse codes", "units, codec"),
    "audiolm-fine": ("AudioLM's third stage: coarse codes, then fine ones", "codec"),
    "latents": ("CALM, SALAD: text, then continuous latents", "codec with `codec.latents`, words"),
}
"""By layout: whose it is, and what it needs of a row."""

HEAD = """\
# Layouts

A layout turns a row of a corpus into a sequence of steps, each with one id or none in every row of ids, and back:
`undo(apply(x))` is `x` for every one of them (`tests/training/test_layout_laws.py`). Streams lie in the corpus undelayed and in
their own time, so all of these are made from one corpus when it is read. Choose one in the config, and look at it before
training:

    train: {layout: {name: glm-4-voice}}
    antiphon inspect CORPUS --layout glm-4-voice --steps 40

The text row holds ids of the trunk's own tokenizer; speech rows have vocabularies and softmaxes of their own, and the marks
that switch between them are ids of the row that says them, so no label of one modality is weighed against another's.
`labels[p]` is `inputs[p + 1]` or nothing, so what is sampled can be fed back as it is; in `valle-nar` alone a label stands at its
own place, and its position sees the whole document. A corpus without what a layout needs is refused, naming the stage that makes
it. Options of each: `antiphon config train`.

What differs from the systems, on purpose: tail codes of delayed rows are kept (MusicGen's and Moshi's training cut them off); a
unit at a word's border is in exactly one word (slamkit gives some to two, and some to none); words said faster than the text
row can hold them push each other back, and are counted (Moshi drops them); text longer than its speech is kept (SpeechGPT-2.0
cuts it); specials are ids of their own, never codes (CSM ends a turn with code 0).

**What each needs.** `units`, `codec` and `taste` are the sections of the config that make the streams; a corpus
without one is refused by name. Dialogues are made by `antiphon dialogues`, or come with a manifest's `dialogue_id`, `turn` and
`role`; channels with `decode.channels: split`.

**Weights.** Each layout has its system's loss weights as defaults: Moshi 100 on the first codebook and 0.5 on PAD and EPAD
(layout `moshi`; `codec` has 1 on all codebooks), TASLM 0.5 and 0.5, Kimi-Audio 7 to 1, none on text where the system is given
it (CosyVoice 2, LLaMA-Omni2, CSM, VALL-E). In the tables below, an id in brackets is given and not learnt; a dot is no id.

**Sampling** (`training.generate`): text to speech and the continuation of speech where the layout has both. Not possible: new
words in layouts without text (units, step-audio, and the orders of codebooks unless `text_first`), and anything but a row to
start from in speechgpt, audiolm-coarse, audiolm-fine and valle-nar; each says so. After words without speech most layouts say these
words and no more; after speech, text goes on as the model wants. `antiphon speak` turns codec codes, and latents, into sound.

**VALL-E** is two models, trained apart on one corpus: `vall-e` with `codebooks: 1` says the first codebook step by step, and
`valle-nar` fills each further one in a single pass.

    antiphon train CONFIG --corpus CORPUS --out ar --set 'train.layout={"name": "vall-e", "codebooks": 1}'
    antiphon train CONFIG --corpus CORPUS --out nar --set train.layout.name=valle-nar
    antiphon speak ar --fill nar --text "Good morning" --out hello.wav

**Text alone** (`Layout.text_only`) fits into the rows of every layout but valle-nar, for batches that keep the trunk's language.

**Not here**: pitch and style tokens (Spirit-LM Expressive) are in no column. SNAC's seven rows for Mini-Omni are seven codebooks of
a codec at the lowest of its rates.

Drawn below, by `python -m examples.layouts`, from one row of LJSpeech (9.65 s; public domain) and one dialogue spoken by a TTS,
with the embedded tokenizers and the tokenizer of stories15m; "a second" is steps for each second of sound in that row. An id in
brackets is given and not learnt; a dot is nothing. Of a latent its first number is shown, normalised.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", metavar="CORPUS")
    parser.add_argument("dialogues", metavar="DIALOGUES")
    arguments = parser.parse_args()
    corpora = [arguments.corpus, arguments.dialogues]
    sections = [section(options, names, corpora) for options, names in by_class().items()]
    table = ["| layout | system | needs | rows | steps a second |", "|---|---|---|---|---|"]
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
        system, needs = SYSTEMS[name]
        rows.append(f"| `{name}` | {system} | {needs} | {len(layout.rows)} | {rate:.1f} |")
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
                    lines = draw(layout, laid, written, STEPS, width=110, first=FIRST.get(layout.name, 0))
                    drawn = "\n".join([f"{found.audio_s:.2f} s: {summary(layout, laid)}", *lines]).rstrip()
                    return layout, drawn, len(laid.inputs) / found.audio_s
        except ValueError as error:
            refused = str(error)
    raise SystemExit(f"{options}: {refused or 'no example in either corpus'}")


if __name__ == "__main__":
    main()
