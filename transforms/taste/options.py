"""How to fit a TASTE tokenizer."""

from pathlib import Path
from typing import Literal

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
    decoder: Literal["compact", "unit_lm"] = "compact"
    """The speech decoder: "compact", which `antiphon speak --from taste` can sound and needs units at 50 Hz; or "unit_lm", the
    paper's, for units of any rate, one a frame."""
    unit_lm: dict[str, int] = {}  # noqa: RUF012 (pydantic copies it)
    """Sizes of the unit LM that are not the paper's: dim, dim_in, heads, hidden, layers, text_layers, code_layers."""
    layers: tuple[int, ...] = (0, 1)
    """Decoder layers of the checkpoint that the aggregator starts from."""
    value_layer: int = 2
    """Encoder layers that the attended values have passed through."""
    timed: bool = True
    """Whether a word's vector also says when the aggregator's heads look, and how widely; the paper's does not."""
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
    steps_settle: int = 100
    """Of them the first ones, in which only the codebooks and the decoder move: the vectors that are quantised stay."""
    quantised_rate: float = 0.3
    """Factor on the tokenizer's learning rate while there are codes: books that follow by averages cannot follow fast."""
    decay: float = 0.97
    """Of the moving averages that the codebooks follow."""
    code_dropout: float = 0.25
    """Share of words that keep only their first codes."""
    dropout: float = 0.2
    """Of the decoder's layers."""
    length_weight: float = 1.0
    """Weight of what is lost in telling lengths, beside the cross-entropy of units."""
    text_share: float = 0.15
    """Share of utterances whose codes are held back, so that the decoder can also read from the text alone."""
    speaker: str | None = "resemblyzer"
    """Speaker encoder whose embedding the decoder is given, so that codes need not carry the voice. None: no one's."""
    batch: int = 16
    """Utterances in a step."""
    learning_rate: float = 1e-3
    """Peak learning rate of the decoder; cosine decay over all steps."""
    tokenizer_learning_rate: float = 3e-4
    """Peak learning rate of the aggregator, which starts from the recogniser's weights, and of the quantiser's projections."""
    heldout_share: float = 0.05
    """Share of speakers kept out of fitting, for the figures."""
    evaluate_every: int = 100
    """Steps with codes between two looks at the speakers kept out; what is written is the step with the lowest loss on them.
    0: the last step."""
    bfloat16: bool = False
    """Multiply in bfloat16, which processors with instructions for it do about twice as fast."""
    log_every: int = 50
    """Steps between two lines of progress."""
    save_every: int = 200
    """Steps between two checkpoints, from which the same command goes on."""
    seed: int = 0
    """Seed of everything drawn."""
