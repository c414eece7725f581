"""`antiphon fit`: a tokenizer of one's own, from the audio, text and units of a corpus."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import files
from pipeline.config import ConfigError, assign_all, explain
from pipeline.inspect import read_rows
from pipeline.shards import decode_flac, read_parquet
from pipeline.store import Store
from schemas import Utterance
from schemas import record as records
from schemas.errors import UserError
from transforms.options import Options

Say = Callable[[str], None]


def run_fit(
    what: str,
    corpus: str,
    out: str,
    assignments: Sequence[str],
    beam_args: Sequence[str] = (),
    say: Say = lambda line: print(line, file=sys.stderr, flush=True),
) -> int:
    """Fit `what` (one of the command's choices) on a corpus and write it to `out`. Returns the exit code.

    Raises UserError: no corpus there, options that do not exist, too little data, a corpus without what the fit needs.
    """
    store = Store(corpus)
    commits = store.commits().values()
    if not commits:
        raise UserError(f"{corpus}: no committed shard here; make a corpus with `antiphon prepare`")
    rows, hours = sum(c.rows for c in commits), sum(c.seconds_kept for c in commits) / 3600
    values: dict[str, Any] = {"data": f"{rows} utterances, {hours:.2f} h, of {Path(corpus).name}"}
    mistakes = assign_all(values, assignments)
    target = Path(out)
    if what == "taste" and "preset" in values:
        from transforms.taste.sizes import fit_preset

        # What is given beside the preset goes before it.
        try:
            values = fit_preset(str(values.pop("preset"))) | values
        except ValueError as error:
            mistakes.append(f"--set preset: {error}")
    values["folder" if what == "taste" else "path"] = target
    kind, fit = _fit(what)
    try:
        options = kind.model_validate(values)
    except ValidationError as error:
        mistakes += [explain(e, f"fit {what}", kind) for e in error.errors()]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    suffix = ".json" if what == "bpe" else ".safetensors"
    if what != "taste" and target.suffix != suffix:
        raise UserError(f"--out {out}: give the name of a {suffix} file")
    target.parent.mkdir(parents=True, exist_ok=True)
    if what == "units":
        from pipeline.fit_units import fit_units_of
        from transforms.units.fit import FitUnitsOptions

        assert isinstance(options, FitUnitsOptions)
        print(fit_units_of(corpus, options, beam_args, say))
        return 0
    if what in ("bpe", "latents"):
        print(fit(corpus, options))
        return 0
    try:
        print(fit(utterances(corpus), options, say))
    except ValueError as error:
        raise UserError(f"{corpus}: {error}") from error
    return 0


def utterances(corpus: str) -> Iterator[Utterance]:
    """The rows of a corpus as utterances, audio decoded, in the order of the shards; one shard in memory at a time."""
    return map(_utterance, read_rows(corpus))


def utterances_of(corpus: str, block: str) -> Iterator[Utterance]:
    """Those of one committed block."""
    store = Store(corpus)
    for row in read_parquet(files.read(store.path("data", f"{block}.parquet"))):
        yield _utterance(row)


def _utterance(row: dict[str, Any]) -> Utterance:
    samples = decode_flac(row["audio"]["bytes"])
    rate_hz = round(len(samples) / row["duration_s"])
    utterance = records.from_row(row, samples, rate_hz)
    utterance.given = {"speaker": row["speaker"]} if row["speaker"] else {}
    return utterance


def _fit(what: str) -> tuple[type[Options], Callable[..., Any]]:
    """The options of a fit and its function; the heavy modules are imported here."""
    if what == "units":
        from transforms.units.fit import FitUnitsOptions, fit_units

        return FitUnitsOptions, fit_units
    if what == "bpe":
        from pipeline.fit_bpe import FitBpeOptions, fit_bpe

        return FitBpeOptions, fit_bpe
    if what == "latents":
        from pipeline.fit_latents import FitLatentsOptions, fit_latents

        return FitLatentsOptions, fit_latents
    if what == "codec":
        from transforms.codec.fit import FitCodecOptions, fit_codec

        return FitCodecOptions, fit_codec
    if what == "align":
        from transforms.align.fit import FitAlignOptions, fit_align

        return FitAlignOptions, fit_align
    if what == "sound":
        from transforms.taste.fit_sound import FitSoundOptions, fit_sound

        return FitSoundOptions, fit_sound
    if what == "chars":
        from transforms.align.fit_chars import FitCharsOptions, fit_chars

        return FitCharsOptions, fit_chars
    if what == "overlap":
        from transforms.speaker.fit_overlap import FitOverlapOptions, fit_overlap

        return FitOverlapOptions, fit_overlap
    from transforms.taste.fit import fit_taste
    from transforms.taste.options import FitTasteOptions

    return FitTasteOptions, fit_taste
