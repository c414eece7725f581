"""The settings of a training run. Light to import: no torch."""

from typing import Literal

from pydantic import Field

from training.layouts import AnyLayoutOptions, TasteLayoutOptions
from training.layouts.base import Options


class DpoOptions(Options):
    """Preferences to be learnt instead of a corpus (`antiphon dpo`)."""

    policy: str
    """The checkpoint to start from, which is the frozen reference too: the one that the preferences were sampled from."""
    preferences: str
    """A preferences.parquet of `antiphon preferences`."""
    beta: float = Field(default=0.1, gt=0)
    """How dearly the model pays for leaving the reference (slamkit: 0.1)."""
    pairs: int = Field(default=4, ge=1)
    """Pairs in a batch."""
    heldout_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the prompts that is kept out of training, by a hash of their ids."""


class TrainOptions(Options):
    """A hybrid speech-text LM, trained on one or more corpora."""

    trunk: str = "smollm2-135m-instruct"
    """The text LM to start from: a name that `antiphon pull` knows, or a folder with any Hugging Face causal LM."""
    trunk_layers: int | None = Field(default=4, ge=1)
    """Keep only the trunk's first layers (SmolLM2-135M has 30); null keeps all. Four suit two cores."""
    train_text_embeddings: bool = False
    """Also train the trunk's text embeddings and text head. Frozen, they save time and memory and forget less."""
    layout: AnyLayoutOptions = Field(default=TasteLayoutOptions(), discriminator="name")
    """How a row becomes a sequence: docs/layouts.md shows them all."""

    steps: int = Field(default=200, ge=1)
    """Optimizer steps."""
    seq_len: int = Field(default=256, ge=16)
    """Positions in a packed sequence. Longer utterances are cut, and what is cut off goes on as a document of its own."""
    batch_tokens: int = Field(default=256, ge=16)
    """Positions in a batch: `batch_tokens / seq_len` packed sequences, at least one."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of what is new: added embeddings and heads (AdamW)."""
    trunk_lr: float = Field(default=3e-4, ge=0)
    """Peak learning rate of the trunk; 0 freezes it."""
    warmup: int = Field(default=20, ge=0)
    """Steps over which the learning rates rise from 0."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After warm-up: cosine to a tenth; wsd: constant, then linearly to zero over the last fifth; or constant."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's, on matrices only."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    seed: int = 0
    """Of the new weights and of the data's order."""

    dpo: DpoOptions | None = None

    pool_shards: int = Field(default=16, ge=1)
    """Shards whose rows are shuffled and packed together: more shuffle better, and take more memory."""
    damaged: Literal["stop", "skip"] = "stop"
    """What to do with a shard whose bytes are not those that were committed."""
    log_every: int = Field(default=10, ge=1)
    """Steps between printed lines. `log.jsonl` has every step."""
    eval_every: int = Field(default=100, ge=0)
    """Steps between held-out losses, which are also taken before the first step and after the last; 0 takes none."""
    save_every: int = Field(default=100, ge=1)
    """Steps between checkpoints; the last step is always saved."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints to keep."""
    device: str = "cpu"
    """"cpu", or "cuda"."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of torch on the CPU; null leaves it to torch."""
