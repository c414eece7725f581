"""One row of a shard: the Parquet schema, field by field, and the conversion from and to an `Utterance`.

`FIELDS` is the documentation, the Arrow schema and the order of the columns in one; `docs/schema.md` is printed from it by
`python -m schemas.record`. Streams are stored undelayed, un-interleaved and in their own time, so that one corpus serves
every layout.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.tokenizer import Latents, Tokenizer
from schemas.utterance import Label, Span, Utterance, Word

_WORD = pa.struct(
    [
        ("text", pa.string()),
        ("start_s", pa.float32()),
        ("end_s", pa.float32()),
        ("score", pa.float32()),
        ("how", pa.string()),
    ]
)
_SPAN = pa.struct([("start_s", pa.float32()), ("end_s", pa.float32())])
_LABEL = pa.struct([("name", pa.string()), ("label", pa.string()), ("score", pa.float32())])
# The struct that Hugging Face `datasets` calls the Audio feature.
_AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# uint16 holds every codebook in use (the largest, X-codec 2, has 65,536 entries), and every reader knows it.
_TOKENS = pa.list_(pa.uint16())


@dataclass(frozen=True)
class Field:
    """One column: its Arrow type, and what it holds with unit and shape."""

    type: pa.DataType
    about: str
    column: bool = False
    """True where the value lives in `Utterance.columns` rather than in an attribute of its own."""
    only: Callable[[Latents], bool] | None = None
    """Given what the codec's latents are, whether a shard has the column; a shard of a codec without latents never has it.
    None: every shard has it."""


FIELDS: dict[str, Field] = {
    "id": Field(pa.string(), "16 hexadecimal digits, a hash of source, channel, start and end: unique in the corpus"),
    "source": Field(pa.string(), "the recording: its path as the config gives it, or the manifest's id"),
    "channel": Field(pa.int16(), "0-based channel, -1 for the mean of all of them"),
    "start_s": Field(pa.float64(), "s from the start of the source"),
    "end_s": Field(pa.float64(), "s from the start of the source"),
    "duration_s": Field(pa.float64(), "s, `end_s - start_s`"),
    "language": Field(pa.string(), "ISO 639-1 code, empty where unknown"),
    "origin": Field(pa.string(), "human or tts"),
    "split": Field(pa.string(), "train or heldout; all utterances of one recording have the same"),
    "audio": Field(_AUDIO, "encoded mono audio, at the rate in the file's metadata (16-bit FLAC), path `<id>.flac`"),
    "text": Field(pa.string(), "the transcript as written"),
    "text_normalized": Field(pa.string(), "its normal form: Whisper's normalizer for the language"),
    "asr_model": Field(pa.string(), "recogniser; empty where the text came with the audio", True),
    "asr_avg_logprob": Field(pa.float32(), "mean log-probability of the text's tokens", True),
    "asr_no_speech_prob": Field(pa.float32(), "probability of no speech", True),
    "asr_compression_ratio": Field(pa.float32(), "length of the text over its zlib length", True),
    "asr_temperature": Field(pa.float32(), "sampling temperature that gave the text", True),
    "asr_language_prob": Field(
        pa.float32(), "probability of the language, where the recogniser found it out itself", True
    ),
    "asr_given_language_prob": Field(
        pa.float32(),
        "probability that the audio is in the language given for it; with `transcribe.check_language`",
        True,
    ),
    "text_language_share": Field(
        pa.float32(), "share of the recording's speech in this block that is in the row's language, 0..1", True
    ),
    "text_repeat_share": Field(pa.float32(), "share of the text that it says a second time or more often, 0..1", True),
    "text_loops": Field(pa.int32(), "how often it says the same in a row, at most; 1 where it never does", True),
    "text_chars_per_s": Field(
        pa.float32(),
        "letters a second of speech (of the whole, without a VAD); one of Chinese or Korean counts as 3",
        True,
    ),
    "asr_text_2": Field(pa.string(), "what a second recogniser heard; empty where there is none", True),
    "asr_agreement": Field(pa.float32(), "1 - word error rate between both texts' normal forms, 0..1", True),
    "words": Field(
        pa.list_(_WORD),
        "[W] written words: s from the start of the utterance, score 0..1, how = ctc|gmm|wildcard|interpolated|given",
    ),
    "align_score": Field(pa.float32(), "mean score of the words, 0..1", True),
    "align_low_share": Field(pa.float32(), "share of the words whose score is under `filter.low_score`, 0..1", True),
    "align_gap_s": Field(
        pa.float32(),
        "s of the longest stretch in which no word lies; a word fills 0.1 s a letter and 0.3 s at most",
        True,
    ),
    "align_untold_share": Field(
        pa.float32(),
        "share of the speech that the words do not fill at the pace of the text, 0..1: not written down",
        True,
    ),
    "units": Field(_TOKENS, "[U] SSL units without repeats"),
    "unit_run_lengths": Field(_TOKENS, "[U] frames that each unit lasts; they sum to the frame count"),
    "codec_codes": Field(pa.list_(_TOKENS), "[K, T] codec codes, codebook by codebook, undelayed"),
    "codec_latents": Field(
        pa.list_(pa.list_(pa.float16())),
        "[T, d] continuous latents, one a frame, not normalised; column there with `codec.latents` only",
        only=lambda latents: True,
    ),
    "codec_latent_variance": Field(
        pa.list_(pa.list_(pa.float16())),
        "[T, d] variance of each, where the codec is a VAE that gives it; else no such column",
        only=lambda latents: latents.variance,
    ),
    "taste_codes": Field(pa.list_(_TOKENS), "[W, R] one tuple of codes for each word"),
    "taste_latents": Field(
        pa.list_(pa.list_(pa.float16())),
        "[W, D] the quantised vector that each word's codes stand for; with `taste.latents`",
    ),
    "speaker": Field(
        pa.string(), "speaker's name: the manifest's, else `source#second/number` within a block, else empty", True
    ),
    "speaker_share": Field(pa.float32(), "share of the utterance's 1.6 s windows that its speaker holds, 0..1", True),
    "speaker_overlaps": Field(
        pa.list_(_SPAN),
        "s from the start of the utterance, where two or more speak at once; empty where nothing listened for it",
    ),
    "speaker_overlap_share": Field(
        pa.float32(), "share of the utterance in which two or more speak at once, 0..1", True
    ),
    "speaker_embedding": Field(pa.list_(pa.float32()), "[D] of length 1; empty where the stage did not run"),
    "labels": Field(pa.list_(_LABEL), "what each classifier says: its name, its label and the probability, 0..1"),
    "quality_snr_db": Field(pa.float32(), "dB, speech over the quietest tenth of the frames", True),
    "quality_peak": Field(pa.float32(), "largest absolute sample, 0..1", True),
    "quality_clipped_share": Field(pa.float32(), "share of samples at full scale", True),
    "quality_rms_db": Field(pa.float32(), "dB relative to full scale", True),
    "quality_bandwidth_hz": Field(pa.float32(), "Hz under which 99 % of the energy lies", True),
    "quality_voiced_s": Field(pa.float32(), "s in which the VAD heard speech", True),
    "quality_chars_per_s": Field(pa.float32(), "letters of the transcript a second", True),
    "quality_words_per_s": Field(
        pa.float32(), "words a second, from the first word's start to the last one's end", True
    ),
    "quality_pitch_hz": Field(pa.float32(), "Hz, median fundamental frequency of the voiced frames", True),
    "quality_pitch_low_hz": Field(pa.float32(), "Hz, its 5th percentile", True),
    "quality_pitch_high_hz": Field(pa.float32(), "Hz, its 95th percentile", True),
    "quality_voiced_share": Field(pa.float32(), "share of the frames that have a fundamental frequency", True),
    "quality_dnsmos": Field(pa.float32(), "DNSMOS P.835, overall, 1..5", True),
    "quality_dnsmos_speech": Field(pa.float32(), "DNSMOS P.835, the speech itself, 1..5", True),
    "quality_dnsmos_background": Field(pa.float32(), "DNSMOS P.835, how little the background disturbs, 1..5", True),
    "quality_dnsmos_p808": Field(pa.float32(), "DNSMOS P.808, overall, 1..5", True),
    "dialogue_id": Field(pa.string(), "conversation, empty outside one", True),
    "turn": Field(pa.int32(), "0-based turn in the conversation, -1 outside one", True),
    "role": Field(pa.string(), "user, assistant or empty", True),
    "group_id": Field(pa.string(), "ties the channels of one recording together: the source", True),
}

_EMPTY: dict[pa.DataType, Any] = {pa.string(): "", pa.float32(): None, pa.int32(): -1}

STREAMS = {"units": "units", "codec": "codec_codes", "taste": "taste_codes"}
"""Tokenizer kind -> its column."""

ARRAYS: dict[str, type[np.generic]] = {
    "units": np.uint16,
    "unit_run_lengths": np.uint16,
    "codec_codes": np.uint16,
    "codec_latents": np.float16,
    "codec_latent_variance": np.float16,
    "taste_codes": np.uint16,
    "taste_latents": np.float16,
}
"""Columns that are arrays, None where their stage did not run, and what each is stored as."""


def columns(tokenizers: Mapping[str, Tokenizer]) -> list[str]:
    """The columns of a shard with tokens of these tokenizers, in order."""
    latents = tokenizers["codec"].latents if "codec" in tokenizers else None
    return [n for n, field in FIELDS.items() if field.only is None or (latents is not None and field.only(latents))]


def schema(rate_hz: int, tokenizers: Mapping[str, Tokenizer], version: int) -> pa.Schema:
    """Arrow schema of a shard, with the tokenizers' cards (key `antiphon`) and the Audio feature (key `huggingface`)."""
    names = columns(tokenizers)
    fields = pa.schema([pa.field(name, FIELDS[name].type) for name in names])
    cards = {kind: tokenizers[kind].as_json() for kind in sorted(tokenizers)}
    ours = {"schema_version": version, "rate_hz": rate_hz, "tokenizers": cards}
    features = {name: _feature(FIELDS[name].type) for name in names}
    features["audio"] = {"sampling_rate": rate_hz, "_type": "Audio"}
    return fields.with_metadata(
        {"antiphon": json.dumps(ours, sort_keys=True), "huggingface": json.dumps({"info": {"features": features}})}
    )


def _feature(kind: pa.DataType) -> Any:
    """The Hugging Face `datasets` feature, as JSON, of an Arrow type."""
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _feature(kind.field(i).type) for i in range(kind.num_fields)}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {"double": "float64", "float": "float32", "halffloat": "float16"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def to_row(utterance: Utterance, flac: bytes, text_normalized: str = "") -> dict[str, Any]:
    """The row of an utterance whose audio is already encoded."""
    u = utterance
    row: dict[str, Any] = {name: _EMPTY.get(field.type) for name, field in FIELDS.items() if field.column}
    row |= {name: value for name, value in u.columns.items() if name in FIELDS}
    for name in ("id", "source", "channel", "start_s", "end_s", "duration_s", "language", "origin", "split", "text"):
        row[name] = getattr(u, name)
    row["text_normalized"] = text_normalized
    row["audio"] = {"bytes": flac, "path": f"{u.id}.flac"}
    row["words"] = [
        {"text": w.text, "start_s": w.start_s, "end_s": w.end_s, "score": w.score, "how": w.how} for w in u.words
    ]
    for name, dtype in ARRAYS.items():
        value = getattr(u, name)
        # A latent stays an array: a list of a minute's numbers would be several MB of objects.
        row[name] = value if value is None else list(value) if dtype is np.float16 else value.tolist()
    row["speaker_embedding"] = [] if u.speaker_embedding is None else u.speaker_embedding.tolist()
    row["speaker_overlaps"] = [{"start_s": x.start_s, "end_s": x.end_s} for x in u.overlaps]
    row["labels"] = [{"name": x.name, "label": x.label, "score": x.score} for x in u.labels]
    unknown = sorted(set(u.columns) - set(FIELDS))
    if unknown:
        raise KeyError(f"{u.id}: columns that the schema does not have: {', '.join(unknown)}")
    return {name: row[name] for name in FIELDS}


def from_row(row: Mapping[str, Any], samples: np.ndarray, rate_hz: int) -> Utterance:
    """The utterance of a row; the inverse of `to_row` up to the encoding of the audio and float32 rounding."""
    start = round(row["start_s"] * rate_hz)
    utterance = Utterance(
        row["source"],
        row["channel"],
        start,
        round(row["end_s"] * rate_hz),
        samples,
        rate_hz,
        language=row["language"],
        origin=row["origin"],
        split=row["split"],
        text=row["text"],
        words=[Word(**word) for word in row["words"] or []],
        overlaps=[Span(**span) for span in row.get("speaker_overlaps") or []],
        labels=[Label(**label) for label in row.get("labels") or []],
    )
    for name, dtype in ARRAYS.items():
        if row.get(name) is not None:
            setattr(utterance, name, np.asarray(row[name], dtype=np.float16 if dtype == np.float16 else np.int64))
    if row.get("speaker_embedding"):
        utterance.speaker_embedding = np.asarray(row["speaker_embedding"], dtype=np.float32)
    utterance.columns = {
        name: row[name] for name, field in FIELDS.items() if field.column and row.get(name) not in (None, "")
    }
    return utterance


def markdown() -> str:
    """`docs/schema.md`: a table of the columns."""
    lines = ["| column | type | what |", "|---|---|---|"]
    lines += [f"| `{name}` | `{field.type}` | {field.about.replace('|', ' ')} |" for name, field in FIELDS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
