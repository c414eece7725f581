"""The settings of a training run. Light to import: no torch."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from training.layouts import LAYOUTS, AnyLayoutOptions, TasteLayoutOptions
from training.layouts.base import LayoutOptions, Options


class DepthOptions(Options):
    """A transformer over the rows of one position (training/depth.py)."""

    kind: Literal["moshi", "csm"] = "moshi"
    """moshi: weights of its own for each row, all speech rows; csm: one set of weights, for all but the first."""
    layers: int = Field(default=4, ge=1)
    """Layers (Moshi: 6, CSM: 4)."""
    width: int = Field(default=256, ge=8)
    """Its width (Moshi and CSM: 1024)."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; they divide the width."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Share of positions, drawn anew for each batch, that its loss is taken on; null: 1/16 for csm, as in CSM, else all."""

    @property
    def share_used(self) -> float:
        return self.share or (1 / 16 if self.kind == "csm" else 1.0)


class LatentOptions(Options):
    """What heads for continuous targets have in common."""

    weight: float = Field(default=1.0, ge=0)
    """Weight of its mean loss in the total, in a layout with latents."""
    input_noise: float = Field(default=0.0, ge=0)
    """Deviation of the noise that is added in training to latents that come in, whose own deviation is about 1 (CALM)."""


class GaussianOptions(LatentOptions):
    """A Gaussian: in the space of the tokenizer's code vectors, quantised by its own codebooks (TASLM's embedding variant), or, in
    a layout with latents, of these."""

    name: Literal["gaussian"] = "gaussian"
    """Which head this is."""
    codebooks: str | None = None
    """A safetensors file with the tokenizer's codebooks. Read once; checkpoints hold them. Null in a layout with latents."""
    tensor: str = "quantiser.codebooks"
    """Name of the tensor in it, `[rows, codes, dim]`."""
    dim: int = Field(default=128, ge=1)
    """Dimensions of a code vector; a layout with latents has its own."""


class FlowOptions(LatentOptions):
    """Flow matching by an MLP, for layouts with continuous latents."""

    name: Literal["flow"] = "flow"
    """Which head this is."""
    dim: int | None = Field(default=None, ge=1)
    """Dimensions of a latent; null: those of the layout."""
    width: int = Field(default=512, ge=8)
    """Width of the MLP (CALM: 512)."""
    depth: int = Field(default=6, ge=1)
    """Residual blocks (CALM: 6)."""
    draws: int = Field(default=4, ge=1)
    """Times and noises drawn for each position of a batch (MAR: 4)."""
    steps: int = Field(default=10, ge=1)
    """Euler steps when sampling."""


class LoraOptions(Options):
    """Low-rank adapters on every linear map of the trunk, whose own weights stay as they are. Trained at `trunk_lr`."""

    rank: int = Field(default=64, ge=1)
    """Rank (TASLM: 64, moshi-finetune: 128)."""
    alpha: int = Field(default=128, ge=1)
    """Adapters are scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before each adapter."""


class CtcOptions(Options):
    """The decoder that reads units off the text's states (training/ctc.py). Only layout llama-omni has one."""

    layers: int = Field(default=2, ge=1)
    """Layers of the trunk's kind and width (LLaMA-Omni: 2)."""


class ModelOptions(Options):
    """What is put around the trunk."""

    fusion: Literal["sum", "softmax"] = "sum"
    """How text and speech embeddings of a position become one: their sum, or a softmax-weighted sum with learnt weights, begun
    at [-2, 2] for speech and text (TASLM). A position with only one of them takes it whole."""
    depth: DepthOptions | None = None
    """A depth transformer over the rows of a position; null predicts them independently."""
    latent: GaussianOptions | FlowOptions | None = Field(default=None, discriminator="name")
    """A head for continuous targets: `latent.name` is gaussian or flow; null: flow in a layout with latents, else none."""
    lora: LoraOptions | None = None
    """Train adapters instead of the trunk; null trains the trunk as `trunk_lr` says."""
    ctc: CtcOptions = CtcOptions()
    """What reads the units in layout llama-omni."""


PRESETS: dict[str, dict[str, Any]] = {
    "moshi": {"text_weight": 1.0, "speech_weight": 1.0, "streams": {"pad": 0.5, "first": 100.0}},
    "taslm": {"text_weight": 0.5, "speech_weight": 0.5, "text_kl": 0.9},
    "kimi": {"text_weight": 0.875, "speech_weight": 0.125},
}
"""Loss weights of published systems. moshi: moshi-finetune's loss, the first codebook 100 times the others, PAD and EPAD one
half. taslm: TASTE's run script. kimi: 7 to 1, which Kimi-Audio gives as the weights of its text and audio tasks."""


class LossOptions(Options):
    """What each part of the loss weighs. What is null is as the preset says, and without a preset as the layout says."""

    preset: Literal["moshi", "taslm", "kimi"] | None = None
    """Weights of a published system."""
    text_weight: float | None = Field(default=None, ge=0)
    """Weight of the mean text loss in the total."""
    speech_weight: float | None = Field(default=None, ge=0)
    """Weight of the mean speech loss in the total."""
    text_kl: float | None = Field(default=None, ge=0, le=1)
    """Share of each text token's loss that is the Kullback-Leibler divergence of the frozen text LM's prediction, which sees the
    text alone, from the model's; the rest is cross-entropy (TASLM: 0.9). It keeps the model from forgetting how to write. With
    LoRA it costs a second pass; without, a second copy of the trunk too."""
    streams: dict[str, float] | None = None
    """Weights within a group that replace the layout's, by row name, or `first` for the first speech row and `pad` for labels
    of the text row that are PAD or EPAD."""

    def resolved(self, layout: LayoutOptions) -> "LossOptions":
        """With nothing left null."""
        own = {name: value for name, value in self.model_dump(exclude={"preset"}).items() if value is not None}
        given = {
            "text_weight": layout.text_weight,
            "speech_weight": layout.speech_weight,
            "text_kl": 0.0,
            "streams": {},
        }
        return LossOptions(**(given | PRESETS.get(self.preset or "", {}) | own))


class TextSource(Options):
    """Text without speech, that keeps the trunk from forgetting."""

    path: str
    """A .jsonl or .parquet file, or a folder of them: one document an object or row."""
    column: str = "text"
    """Where the text is in it."""
    share: float = Field(default=0.3, gt=0, lt=1)
    """Share of all training tokens that come from here."""


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

    model: ModelOptions = ModelOptions()
    """What is put around the trunk."""
    loss: LossOptions = LossOptions()
    """What each part of the loss weighs."""
    corpus_shares: tuple[float, ...] | None = None
    """Shares of the corpora among the speech tokens, one number a corpus, in the order of `--corpus`; each batch is then of one
    corpus. Null shuffles all corpora together, as large as they are."""
    text: tuple[TextSource, ...] = ()
    """Text-only sources. Each batch is of one source, and the shares hold at every step to within a batch."""

    steps: int = Field(default=200, ge=1)
    """Optimizer steps."""
    seq_len: int = Field(default=256, ge=16)
    """Positions in a packed sequence. Longer utterances are cut, and what is cut off goes on as a document of its own."""
    batch_tokens: int = Field(default=256, ge=16)
    """Positions in a batch, over all processes: `batch_tokens / seq_len` packed sequences, at least one."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a process computes its share of a batch in, to save memory. The result is that of the whole batch."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: matrix products in bfloat16 (autocast); weights and optimizer stay in float32."""
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
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: whole copies of the model that share gradients, or FSDP2, which shares out weights and states too."""
    compile: bool = False
    """Compile the trunk's layers with torch.compile."""
    attention: Literal["auto", "mask", "flex", "documents"] = "auto"
    """How documents in a packed row are kept apart: a mask over all pairs; flex attention, which skips what is masked; or one
    document after the other. auto: flex on a GPU, documents on a CPU, but a mask there with `compile`."""
    products: Literal["auto", "blas", "onednn"] = "auto"
    """What multiplies float32 matrices on a CPU: torch's BLAS, or oneDNN. auto: oneDNN on AMD's processors with AVX-512."""
    prefetch: int = Field(default=4, ge=0)
    """Batches made ahead in a thread; 0 makes each when it is needed."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where losses and speeds go besides `log.jsonl`. tensorboard writes events to the folder `tensorboard` of the run."""

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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        loss = self.loss.resolved(self.layout)
        if self.model.lora and self.trunk_lr == 0:
            raise ValueError("trunk_lr is 0, and the adapters of model.lora are trained at trunk_lr")
        if loss.text_kl and self.train_text_embeddings and self.model.lora:
            raise ValueError(
                "loss.text_kl compares with the trunk without its adapters: set train_text_embeddings to false"
            )
        if self.model.depth and isinstance(self.model.latent, GaussianOptions):
            raise ValueError("model.depth and model.latent.name=gaussian both predict the speech rows: choose one")
        if LAYOUTS[type(self.layout)].in_place and (self.model.depth or self.model.latent or loss.text_kl or self.text):
            raise ValueError(
                f"layout {self.layout.name} predicts one codebook at a time and no text: leave out model.depth, model.latent, "
                "loss.text_kl and text"
            )
        if sum(source.share for source in self.text) >= 1:
            raise ValueError("the shares of train.text leave nothing for the corpora")
        return self
