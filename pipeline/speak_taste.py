"""`antiphon speak --from taste`: a row of a corpus said again from its text and its TASTE codes, the way it was said."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.inspect import read_rows
from pipeline.shards import decode_flac
from pipeline.speak import Spoken
from schemas import Tokenizer
from schemas import record as records
from schemas.errors import UserError

if TYPE_CHECKING:
    from transforms.taste.speech import Speech


def speak_row(
    corpus: str,
    row_id: str,
    out: str | Path,
    *,
    codes_of: str | None = None,
    text_only: bool = False,
    model: str = "antiphon-taste",
    recogniser: str = "whisper-tiny",
) -> Spoken:
    """Say a row's words in its speaker's voice, and write the sound to the wav file `out`.

    Args:
        row_id: the id or the start of it. codes_of: another row of as many words, whose codes are taken instead.
        text_only: without any codes: the decoder chooses how to say it. model, recogniser: of the tokenizer.

    Raises UserError: no such row, no codes, codes of another tokenizer, or rows of different numbers of words.
    """
    import soundfile

    from transforms.taste.speech import Speech

    row = _row(corpus, row_id)
    speech = Speech.load(model, recogniser)
    codes = None if text_only else _codes(_row(corpus, codes_of) if codes_of else row, corpus)
    words = [word["text"] for word in row["words"]]
    if codes is not None and len(codes) != len(words):
        raise UserError(f"row {codes_of} has codes for {len(codes)} words, and row {row['id']} has {len(words)} words")
    if codes is not None:
        _check(_revision(corpus), speech, model, corpus)
    heard = decode_flac(row["audio"]["bytes"])
    voice = speech.voice(records.from_row(row, heard, round(len(heard) / row["duration_s"])))
    try:
        said = speech.say(" ".join(words), codes, voice)
    except ValueError as error:
        raise UserError(f"row {row['id']} of {corpus}: {error}") from error
    samples = speech.samples(said, codes, voice)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(out), samples, speech.rate_hz, subtype="PCM_16")
    return Spoken(" ".join(words), len(samples) / speech.rate_hz, Path(out))


def speech_of(card: Tokenizer, model: str | None = None, recogniser: str = "whisper-tiny") -> "Speech":
    """What says the codes of a card. Raises UserError where the tokenizer of that name is not the one that made them."""
    from transforms.taste.speech import Speech

    name = model or card.name
    speech = Speech.load(name, recogniser)
    _check(card.revision, speech, name, "the model")
    return speech


def sound_of_words(speech: "Speech", words: Sequence[str], codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Words and codes `[W, R]` of a model, in the mean voice of the data -> (float32 `[n]`, its rate in Hz)."""
    # The last word's codes come after it: where sampling stopped before them, it is not said. Nor is a word of nothing but
    # white space; white space within one, which would make two of it, is left out.
    said_of = [("".join(word.split()), code) for word, code in zip(words, codes, strict=False)]
    kept = [(word, code) for word, code in said_of if word]
    if not kept:
        return np.zeros(0, dtype=np.float32), speech.rate_hz
    text, codes = " ".join(word for word, _ in kept), np.array([code for _, code in kept])
    voice = speech.decoder.voice.numpy()
    said = speech.say(text, codes, voice)
    return speech.samples(said, codes, voice), speech.rate_hz


def _row(corpus: str, row_id: str) -> dict[str, Any]:
    for row in read_rows(corpus):
        if row["id"].startswith(row_id):
            return row
    raise UserError(f"{corpus}: no row whose id starts with {row_id}")


def _codes(row: Mapping[str, Any], corpus: str) -> np.ndarray:
    if row["taste_codes"] is None:
        raise UserError(f"{corpus}: row {row['id']} has no TASTE codes; prepare it with the `taste` stage")
    return np.asarray(row["taste_codes"], dtype=np.int64).reshape(len(row["words"]), -1)


def _revision(corpus: str) -> str:
    from training.reader import Corpus

    cards = Corpus(corpus).cards
    return cards["taste"].revision if "taste" in cards else ""


def _check(revision: str, speech: "Speech", name: str, whose: str) -> None:
    if revision != speech.sha256:
        raise UserError(
            f"{whose} has codes of a tokenizer with sha256 {revision[:12]}, and {name} here is {speech.sha256[:12]}; "
            "name the one that made them, or prepare again"
        )
