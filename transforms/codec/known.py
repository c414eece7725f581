"""Published codecs, for `antiphon tokenizers`. What counts is each model's own config: the stage reads it, not this table."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """A published codec: the backend that reads it, its weights by name, and its shape as published.

    Attributes:
        rate_hz: frames a second. n_codebooks: rows of codes in a frame; of a multi-rate codec, all that fall into one frame.
        size: entries of each codebook. latents: numbers of a continuous latent, with `codec.latents`; 0 where there are none.
    """

    backend: str
    model: str
    rate_hz: float
    n_codebooks: int
    size: int
    note: str
    latents: int = 0


CODECS = (
    Known(
        "mel",
        "antiphon-codec",
        22050 / 1024,
        8,
        2880,
        "the project's own, in the package; the first two carry content",
        128,
    ),
    Known("lyra", "lyra", 50.0, 16, 16, "Lyra v2; up to 46 codebooks"),
    Known("transformers", "facebook/encodec_24khz", 75.0, 32, 1024, "EnCodec; n_codebooks 2 is 1,500 bits/s", 128),
    Known(
        "transformers", "kyutai/mimi", 12.5, 32, 2048, "Mimi; the first codebook carries content; Moshi keeps 8", 512
    ),
    Known("transformers", "descript/dac_16khz", 50.0, 12, 1024, "DAC; also dac_24khz and dac_44khz", 1024),
    Known("transformers", "hf-audio/xcodec-hubert-librispeech", 50.0, 8, 1024, "X-codec: a HuBERT inside"),
    Known("snac", "hubertsiuzdak/snac_24khz", 24000 / 2048, 7, 4096, "SNAC; levels of 1, 2 and 4 codes in a frame"),
    Known("speechtokenizer", "fnlp/SpeechTokenizer", 50.0, 8, 1024, "its folder; the first codebook carries content"),
    Known("vae", "(a folder: VibeVoice)", 7.5, 0, 1, "VibeVoice's acoustic tokenizer; one deviation for all", 64),
    Known("vae", "(a folder: Pocket TTS)", 12.5, 0, 1, "Pocket TTS's tokenizer; means alone", 32),
    Known("vae", "facebook/mms-tts-eng", 62.5, 0, 1, "VITS; mean and variance; one speaker", 192),
)
