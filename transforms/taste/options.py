"""How to fit a TASTE tokenizer."""

from pathlib import Path

from transforms.options import Options


class FitTasteOptions(Options):
    """How to fit a TASTE tokenizer."""

    folder: Path
    """Where the two files go: antiphon-taste.safetensors and antiphon-taste-decoder.safetensors."""
    data: str
    """The data, its size and its licence in one sentence; written into the files' cards."""
    recogniser: str = "whisper-tiny"
    """Whisper checkpoint: a name or a path."""
    language: str = "en"
    """Language of the data, ISO 639-1."""
    n_units: int = 500
    """Number of speech units."""
    layers: tuple[int, ...] = (0, 1)
    """Decoder layers of the checkpoint that the aggregator starts from."""
    value_layer: int = 2
    """Encoder layers that the attended values have passed through."""
    levels: int = 4
    """Codes for each word."""
    size: int = 512
    """Entries of each codebook."""
    code_dim: int = 128
    """Dimensions of the quantised space."""
    steps_text: int = 250
    """Steps on text alone."""
    steps_plain: int = 700
    """Steps with word vectors that are not quantised."""
    steps_quantised: int = 700
    """Steps with codes."""
    batch: int = 16
    """Utterances in a step."""
    learning_rate: float = 1e-3
    """Peak learning rate of the decoder; cosine decay over all steps."""
    tokenizer_learning_rate: float = 3e-4
    """Peak learning rate of the aggregator, which starts from the recogniser's weights, and of the quantiser's projections."""
    heldout_share: float = 0.05
    """Share of speakers kept out of fitting, for the figures."""
    log_every: int = 50
    """Steps between two lines of progress."""
    seed: int = 0
    """Seed of everything drawn."""
