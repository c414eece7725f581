"""Speech prompts continued by a model, made sound again, heard by a recogniser, and judged.

What `antiphon evaluate generation` measures and `antiphon preferences` chooses by.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.speak import codec_options
from schemas.errors import UserError
from training.checkpoint import Checkpoint
from training.generate import Generation, Sampling, generate
from training.perplexity import TextLm, auto_bleu
from training.reader import Corpus
from transforms.codec.stage import make_codec
from transforms.normalize import normalize
from transforms.options import Options
from transforms.registry import load
from transforms.resample import resample
from transforms.transcribe.stage import BACKENDS, RATE_HZ, Recogniser, TranscribeOptions
from transforms.weights import locate

Row = dict[str, Any]


class PromptOptions(Options):
    """Which rows are continued, and how."""

    split: str | None = "heldout"
    """Rows of this split, train or heldout; null for all."""
    prompts: int | None = Field(None, ge=1)
    """At most so many rows, the first ones."""
    prompt_s: float = Field(3.0, gt=0)
    """Seconds of a row that the model is given."""
    at_word: bool = True
    """End the prompt at the end of the word that is nearest to `prompt_s`, where words have times."""
    min_s: float = Field(4.0, gt=0)
    """Rows that are shorter are passed over."""
    max_s: float = Field(6.0, gt=0)
    """Seconds of the continuation at the most."""
    given_text: bool = False
    """Give the model the words that really follow, for it to say: its word error rate is then against those."""
    temperature: float = Field(0.8, ge=0)
    """Of sampling; 0 takes the likeliest."""
    text_top_k: int = Field(25, ge=0)
    """Text tokens are drawn from so many of the likeliest; 0: from any."""
    speech_top_k: int = Field(25, ge=0)
    """Speech tokens likewise."""
    seed: int = 0
    """With the row's id and the continuation's number, decides what is drawn."""
    lm: str = "smollm2-135m-instruct"
    """The text LM that judges transcripts: a name or a folder of any Hugging Face causal LM."""
    transcribe: TranscribeOptions = TranscribeOptions(language="en", temperatures=(0.0,))
    """The recogniser that hears the continuations: greedily, once, as slamkit's does."""
    device: str = "cpu"
    """"cpu", or "cuda"."""


@dataclass(frozen=True)
class Prompt:
    """The beginning of a row: what of it is given to the model, its words, and the words that really follow."""

    id: str
    source: str
    row: Row
    text: str
    follows: str
    seconds: float


@dataclass(frozen=True)
class Measures:
    """Of a continuation: what a recogniser hears in it, and what judges say.

    Attributes:
        seconds: its length. nll: nats a token of the transcript after the prompt's words by the text LM; None without tokens.
        alone: the same without the prompt's words, over all tokens: (nats, tokens).
        wer: of the transcript against the words that the model says it says, or was given; None where there are none.
        dnsmos: overall, 1 to 5; None where it was not asked for or there is no sound.
        auto_bleu: share of repeated bigrams of the transcript. run: frames in a row with the same first code, on average.
    """

    transcript: str
    seconds: float
    nll: float | None
    alone: tuple[float, int]
    wer: float | None
    dnsmos: float | None
    auto_bleu: float
    run: float


def prompts_of(run: Checkpoint, corpus: Corpus, options: PromptOptions) -> Iterator[Prompt]:
    """The prompts in the rows of a corpus, in its order."""
    columns = {*run.layout.columns, "source", "duration_s", "words"}
    given = 0
    for row in corpus.rows(options.split, columns):
        if row["duration_s"] < max(options.min_s, options.prompt_s):
            continue
        yield cut(run, row, options.prompt_s, options.at_word)
        given += 1
        if given == options.prompts:
            return


def cut(run: Checkpoint, row: Row, seconds: float, at_word: bool) -> Prompt:
    """The first `seconds` of a row, or to the end of the word that ends nearest to them."""
    words = row["words"] or []
    ends = [float(word["end_s"]) for word in words]
    if at_word and ends:
        seconds = min(ends, key=lambda end_s: abs(end_s - seconds))
    heard = [word for word in words if word["end_s"] <= seconds + 1e-6]
    made = row | {"words": heard, "duration_s": seconds}
    for kind, card in run.layout.cards.items():
        if kind == "codec":
            made["codec_codes"] = row["codec_codes"][:, : round(seconds * card.rate_hz)]
        elif kind == "taste":
            made["taste_codes"] = row["taste_codes"][: len(heard)]
        else:
            frames = int(seconds * card.rate_hz)
            ends_at = np.cumsum(row["unit_run_lengths"])
            n = int((ends_at <= frames).sum())
            made["units"], made["unit_run_lengths"] = row["units"][:n], row["unit_run_lengths"][:n]
    text, follows = (" ".join(w["text"] for w in part) for part in (heard, words[len(heard) :]))
    return Prompt(row["id"], row["source"], made, text, follows, seconds)


class Judges:
    """The codec, the recogniser, the text LM and, where asked for, DNSMOS: loaded once."""

    def __init__(self, run: Checkpoint, options: PromptOptions, dnsmos: bool = False) -> None:
        """Raises UserError where the layout has no codec codes, MissingWeights where weights are not on this machine."""
        if "codec" not in run.layout.kinds or run.layout.latent_dim:
            raise UserError(
                f"{run.path}: layout {run.layout.name} has no codec codes, which alone are made sound here; "
                "continuations of the others cannot be heard"
            )
        self._codec_options = codec_options(run.cards["codec"])
        self._codec = make_codec(self._codec_options)
        self._options = options
        self._recogniser: Recogniser = load(BACKENDS, options.transcribe.backend, "transcribe.backend")(
            options.transcribe
        )
        self._lm = TextLm(locate(options.lm).path, options.device)
        self._dnsmos = None
        if dnsmos:
            from transforms.dnsmos import DnsMos

            self._dnsmos = DnsMos(locate("dnsmos").path)
        names = [options.lm, options.transcribe.model, *(["dnsmos"] if dnsmos else [])]
        self.weights = {name: locate(name).sha256 for name in names if name}
        """name -> sha256 of each judge's weights."""

    def sound(self, codes: np.ndarray) -> tuple[np.ndarray, int]:
        """Codes `[K, T]` of the codec's first K codebooks -> (float32 `[n]`, rate in Hz)."""
        if len(codes) != len(self._codec.sizes):
            self._codec = make_codec(self._codec_options.model_copy(update={"n_codebooks": len(codes)}))
        if not codes.shape[1]:
            return np.zeros(0, np.float32), self._codec.sample_rate_hz
        # Codes that a layout could not make out, below 0, are any.
        samples = np.clip(self._codec.decode(codes.clip(min=0)), -1.0, 1.0)
        return samples.astype(np.float32), self._codec.sample_rate_hz

    def hear(self, samples: np.ndarray, rate_hz: int) -> str:
        """The transcript; empty for less than 0.1 s."""
        at16 = resample(samples, rate_hz, RATE_HZ)
        if len(at16) < RATE_HZ // 10:
            return ""
        (heard,) = self._recogniser.transcribe([at16], [self._options.transcribe.language], self._options.seed)
        return " ".join(heard.text.split())

    def nll(self, text: str, prompt: str = "") -> tuple[float, int]:
        """See `TextLm.nll`."""
        return self._lm.nll(text, prompt)

    def measure(self, prompt: Prompt, words: Sequence[str], codes: np.ndarray) -> tuple[Measures, np.ndarray, int]:
        """Judge a continuation by its own words and its codes `[K, T]`; its sound and rate are given back too."""
        samples, rate_hz = self.sound(codes)
        transcript = self.hear(samples, rate_hz)
        total, n = self.nll(transcript, prompt.text)
        dnsmos = None
        if self._dnsmos is not None and len(samples):
            dnsmos = self._dnsmos.score(resample(samples, rate_hz, RATE_HZ))["overall"]
        found = Measures(
            transcript,
            len(samples) / rate_hz,
            total / n if n else None,
            self.nll(transcript),
            wer(" ".join(words), transcript, self._options.transcribe.language or "en"),
            dnsmos,
            auto_bleu(transcript),
            mean_run(codes[0]) if codes.shape[1] else 0.0,
        )
        return found, samples, rate_hz


def continue_(
    run: Checkpoint, prompt: Prompt, number: int, options: PromptOptions
) -> tuple[Generation, list[str], np.ndarray]:
    """Continuation `number` of a prompt: what was generated, the words that it says or was given, and its new codes `[K, T]`."""
    mark = hashlib.sha256(f"{options.seed}/{prompt.id}/{number}".encode()).hexdigest()
    sampling = Sampling(options.temperature, options.text_top_k, options.speech_top_k, int(mark[:8], 16))
    text = prompt.follows if options.given_text else ""
    made = generate(run, text, prompt.row, prompt.seconds + options.max_s, sampling)
    n_frames = prompt.row["codec_codes"].shape[1]
    words = text.split() if options.given_text else made.words[len(prompt.row["words"]) :]
    return made, words, made.codes[:, n_frames:]


def wer(said: str, heard: str, language: str) -> float | None:
    """Word error rate between the normal forms; None where nothing was to be said."""
    import jiwer

    reference, found = normalize(said, language), normalize(heard, language)
    return float(jiwer.wer(reference, found)) if reference.split() else None


def mean_run(codes: np.ndarray) -> float:
    """How many equal codes `[T]` stand in a row on average, T > 0."""
    return len(codes) / (1 + int((codes[1:] != codes[:-1]).sum()))
