"""The command line: `antiphon COMMAND`. Only the parser lives here, so that `--help` answers at once."""

import argparse
import os
import sys
from collections.abc import Sequence

_EPILOG = """\
the usual way:
  antiphon pull whisper-tiny silero-vad             fetch weights by name, checked by hash
  antiphon prepare configs/demo.yaml --out corpus   raw speech in, shards out
  antiphon status corpus                            hours in, kept, rejected, and why
  antiphon train configs/demo.yaml --corpus corpus --out model
  antiphon speak model --text "Good morning" --out hello.wav
"""

_RESUMABLE = ("prepare", "retry", "dialogues", "train")


def _part(text: str) -> tuple[int, int]:
    number, slash, of = text.partition("/")
    if not (slash and number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not i/n with 0 <= i < n, such as 0/8")
    return int(number), int(of)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="YAML file; `antiphon config` prints every field")
    parser.add_argument(
        "--set",
        dest="assignments",
        metavar="A.B=C",
        action="append",
        default=[],
        help="set one field of the config (the value is YAML); may be given many times",
    )


def _evaluations(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="evaluation", metavar="WHAT", required=True)

    def kind(name: str, about: str) -> argparse.ArgumentParser:
        return kinds.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")

    p = kind("loss", "held-out loss of each stream of a trained model")
    p.add_argument("checkpoint", metavar="CHECKPOINT")
    p.add_argument("corpus", metavar="CORPUS")
    p.add_argument("--json", action="store_true", help="as one JSON object")

    p = kind(
        "tokens",
        "what tokenizers cost and keep: bit rate, sound, words, voice, probes, speed; one table for all of them",
    )
    p.add_argument("corpus", metavar="CORPUS")
    p.add_argument(
        "--tokenizer",
        dest="tokenizers",
        metavar="NAME",
        action="append",
        required=True,
        help="units, codec, taste, lyra, melspec, or a transformers codec (a folder or a pulled name); settings after a colon "
        "(codec:n_codebooks=2); may be given many times",
    )
    p.add_argument("--rows", type=int, default=60, help="the corpus's first clips (default 60)")
    p.add_argument(
        "--out", metavar="FOLDER", help="write the table (tokens.md), tokens.json and the picture (tokens.png)"
    )
    p.add_argument(
        "--phones", metavar="MANIFEST", help="JSON lines with audio and phones (p, s, e); else by the aligner"
    )
    p.add_argument("--probe-steps", type=int, default=300, help="of training each probe; 0: no probes (default 300)")
    p.add_argument(
        "--recogniser",
        metavar="MODEL",
        default="whisper-tiny",
        help="Whisper that counts the words (default whisper-tiny)",
    )

    p = kind(
        "lm", "how often a model finds the good side of a pair likelier: sWUGGY, sBLIMP, StoryCloze, SALMon, your own"
    )
    p.add_argument("checkpoint", metavar="CHECKPOINT")
    p.add_argument(
        "--suite", required=True, metavar="NAME", help="swuggy, sblimp, storycloze, topic-storycloze, salmon, pairs"
    )
    p.add_argument("--data", required=True, nargs="+", metavar="PATH", help="the suite's files or folders")
    p.add_argument("--out", metavar="JSONL", help="write each pair's scores here")
    p.add_argument("--config", help="config of the training corpus, where its stages are not the defaults")
    p.add_argument("--cache", metavar="FOLDER", help="where the tokens of what is heard are kept")
    p.add_argument("--json", action="store_true", help="as one JSON object")
    _assignments(
        p, "score=sum, streams=[first], words=asr, speak.backend=kokoro ...; `antiphon config evaluate-lm` prints all"
    )

    p = kind("generation", "perplexity and repetition of what is heard in a model's continuations of speech")
    p.add_argument("checkpoint", metavar="CHECKPOINT")
    p.add_argument("corpus", metavar="CORPUS", help="its rows are cut off after 3 s and continued")
    p.add_argument("--out", metavar="FOLDER", help="write the transcripts and the sound here")
    p.add_argument("--json", action="store_true", help="as one JSON object")
    _assignments(p, "prompts=100, temperature=1.0, lm=FOLDER ...; `antiphon config evaluate-generation` prints all")


def _assignments(parser: argparse.ArgumentParser, such_as: str) -> None:
    parser.add_argument(
        "--set", dest="assignments", metavar="A=C", action="append", default=[], help=f"set one option: {such_as}"
    )


def _with_evaluation(argv: Sequence[str]) -> list[str]:
    """`evaluate CHECKPOINT CORPUS` as `evaluate loss CHECKPOINT CORPUS`; any other command line as it is."""
    words = list(argv)
    if words[:1] == ["evaluate"] and len(words) > 1:
        from pipeline.commands import EVALUATIONS

        if words[1] not in (*EVALUATIONS, "-h", "--help"):
            words.insert(1, "loss")
    return words


def parser() -> argparse.ArgumentParser:
    """The whole command line. Unknown options of `prepare`, `retry`, `dialogues` and `fit` are handed to Beam."""
    top = argparse.ArgumentParser(
        prog="antiphon",
        description="Raw speech in, aligned and tokenized speech-text shards out, and a hybrid language model trained on them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")

    command("doctor", "check this machine: versions, weights, disk, known traps")

    p = command("pull", "fetch weights by name: checked by hash, converted, kept in the cache")
    p.add_argument("names", metavar="NAME", nargs="*", help="names from the list; without one, print the list")
    p.add_argument("--check", action="store_true", help="check what is there against the table instead of fetching")

    p = command("config", "print every field of the config, its default and what it does")
    p.add_argument("section", nargs="?", metavar="SECTION", help="only this section, such as segment")

    command("tokenizers", "list the published unit tokenizers and codecs that are known by name, with their rates")

    p = command("convert", "read a foreign k-means file (.npy, or a pickle of scikit-learn's) without running it")
    p.add_argument("file", metavar="FILE", help="as fairseq or textlesslib publish it")
    p.add_argument("--preset", metavar="NAME", help="the setting it belongs to; `antiphon tokenizers` lists them")
    p.add_argument("--model", metavar="FOLDER", help="the encoder, where it is not the preset's: a name or a path")
    p.add_argument("--layer", type=int, help="without a preset: 1-based transformer layer of the encoder")
    p.add_argument(
        "--normalize",
        choices=["true", "false"],
        help="without a preset: whether the encoder was fed waveforms of zero mean and unit variance",
    )
    p.add_argument(
        "--out", metavar="FILE", help="the .safetensors file to write (with a preset: into the cache folder)"
    )

    p = command("plan", "print what would be made of the sources: blocks, pieces and seconds, as JSON lines")
    _config(p)

    p = command("prepare", "make a corpus: raw speech in, aligned and tokenized shards out")
    _config(p)
    p.add_argument(
        "--out", required=True, metavar="CORPUS", help="folder (or gs:// prefix) of the corpus; run again to go on"
    )
    p.add_argument(
        "--blocks", type=_part, metavar="I/N", help="only every N-th block, from block I: N processes share the work"
    )
    p.add_argument("--dry-run", action="store_true", help="print the plan, the hours and the models, and touch nothing")

    p = command("status", "how far a corpus is: blocks, hours in, kept and rejected, speed of each stage")
    p.add_argument("corpus", metavar="CORPUS")
    p.add_argument("--json", action="store_true", help="as one JSON object")

    p = command("verify", "read every byte of a corpus again, and name what is damaged and how to repair it")
    p.add_argument("corpus", metavar="CORPUS")
    p.add_argument(
        "--forget", action="store_true", help="take damaged blocks out, so that `antiphon prepare` makes them again"
    )

    p = command("retry", "make the blocks again that hold rejections a repair may have cured")
    _config(p)
    p.add_argument("--out", required=True, metavar="CORPUS")
    p.add_argument(
        "--reason", action="append", default=[], help="only blocks rejected for this reason; may be given many times"
    )

    p = command("inspect", "look at rows: words with their times, tokens, measures")
    p.add_argument("corpus", metavar="CORPUS")
    p.add_argument("--id", help="one row, by its id or the start of it")
    p.add_argument("--rows", type=int, default=5, help="how many rows (default 5)")
    p.add_argument("--rejected", action="store_true", help="the rejections instead of the rows")
    p.add_argument("--wav", metavar="FILE", help="with --id: write the row's audio to this file")
    p.add_argument(
        "--layout", metavar="NAME", help="the rows as a layout puts them in sequence: a table of rows and steps"
    )
    p.add_argument("--trunk", metavar="TRUNK", default="", help="with --layout: whose text tokenizer to use")
    p.add_argument("--steps", type=int, default=40, help="with --layout: how many steps to draw (default 40)")
    p.add_argument("--first", type=int, default=0, metavar="STEP", help="with --layout: draw from this step on")
    p.add_argument(
        "--set",
        dest="assignments",
        metavar="A=C",
        action="append",
        default=[],
        help="with --layout: set one of its options",
    )

    p = command("fit", "fit a tokenizer, a head of the aligners, or the overlap detector, on a corpus")
    p.add_argument("what", choices=["units", "bpe", "codec", "latents", "taste", "sound", "align", "chars", "overlap"])
    p.add_argument("corpus", metavar="CORPUS")
    p.add_argument(
        "--out", required=True, metavar="FILE", help="the .safetensors file to write (bpe: .json; taste: a folder)"
    )
    p.add_argument(
        "--set", dest="assignments", metavar="A=C", action="append", default=[], help="set one option of the fit"
    )

    p = command("dialogues", "make a corpus of synthetic spoken dialogues (text LLM and TTS)")
    _config(p)
    p.add_argument("--out", required=True, metavar="CORPUS")
    p.add_argument("--blocks", type=_part, metavar="I/N", help="only every N-th block, from block I")

    p = command("train", "train a hybrid speech-text LM on a corpus; run again to resume")
    _config(p)
    p.add_argument("--corpus", required=True, metavar="CORPUS", action="append", help="may be given many times")
    p.add_argument("--out", required=True, metavar="FOLDER", help="checkpoints and log; run again to resume")

    p = command("evaluate", "held-out loss of a trained model, or another evaluation by its name")
    p.epilog = "`antiphon evaluate CHECKPOINT CORPUS` is `antiphon evaluate loss CHECKPOINT CORPUS`."
    _evaluations(p)

    p = command(
        "preferences", "sample continuations of speech, judge them, and keep clear pairs for DPO; run again to go on"
    )
    p.add_argument("checkpoint", metavar="CHECKPOINT")
    p.add_argument("corpus", metavar="CORPUS", help="its rows are cut off after 3 s and continued")
    p.add_argument("--out", required=True, metavar="FOLDER")
    _assignments(p, "continuations=8, pair.margin=1.0, pair.wer=1.0 ...; `antiphon config preferences` prints all")

    p = command("dpo", "train a checkpoint on preferences, itself the frozen reference; run again to resume")
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="the one that the preferences were sampled from")
    p.add_argument("preferences", metavar="PARQUET", help="preferences.parquet of `antiphon preferences`")
    p.add_argument("--out", required=True, metavar="FOLDER", help="checkpoints and log")
    _assignments(p, "beta=0.1, pairs=4, steps=100, lr=5e-5 ...; `antiphon config train` prints all")

    p = command(
        "speak", "let a trained model go on from a prompt, or a row's TASTE codes be said again; write text and sound"
    )
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of `antiphon train`; with --from taste, a corpus")
    p.add_argument("--text", default="", help="what it shall say first")
    p.add_argument("--out", required=True, metavar="WAV", help="the wav file to write; units: a .json file")
    p.add_argument("--max-s", type=float, default=8.0, help="seconds of speech at the most (default 8)")
    p.add_argument("--seed", type=int, default=0, help="the same seed says the same (default 0)")
    p.add_argument(
        "--temperature",
        type=float,
        help="of a model's sampling; 0 takes the likeliest token (default 0.8)",
    )
    p.add_argument(
        "--from", dest="source", choices=["model", "taste"], default="model", help="what speaks (default model)"
    )
    p.add_argument(
        "--fill",
        metavar="CHECKPOINT",
        help="a model of layout valle-nar, to say the codebooks that CHECKPOINT leaves out",
    )
    p.add_argument("--id", help="with --from taste: the row to say, by its id or the start of it")
    p.add_argument(
        "--codes-of", metavar="ID", help="with --from taste: say it with the codes of this row, word for word"
    )
    p.add_argument("--text-only", action="store_true", help="with --from taste: say it without codes")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 1 done but failed its limits, 2 wrong use, 130 interrupted."""
    top = parser()
    args, rest = top.parse_known_args(_with_evaluation(sys.argv[1:] if argv is None else argv))
    if rest and args.command not in ("prepare", "retry", "dialogues", "fit"):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    args.beam = rest
    from pipeline import commands
    from schemas.errors import UserError
    from schemas.show import show

    try:
        return commands.run(args)
    except UserError as error:
        print(f"antiphon {args.command}: {show(str(error), keep=chr(10))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `antiphon ... | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"antiphon {args.command}: {show(str(error.filename))}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; what is committed stays, and the same command goes on" if args.command in _RESUMABLE else ""
        print(f"\nantiphon {args.command}: interrupted{goes_on}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
