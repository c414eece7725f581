"""The hybrid LM: any Hugging Face causal LM as the trunk, with embeddings and heads for a layout's other ids.

Shapes: B packed rows, S positions, R rows of ids, D the trunk's width, V the text vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from schemas.errors import UserError
from training.layouts.base import IGNORE, NOTHING, Row
from training.packing import Batch, may_attend

# transformers 5 prints bars and reports of its own for every load and save.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


@dataclass
class StreamLosses:
    """Cross-entropy in nats, summed, and how many labels it was summed over, by stream.

    Streams are the layout's rows, except that the text row gives two: "text", which token where there is one, and "pad",
    whether there is a token or which special (when words begin, and where the text ends).
    """

    total: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    def add(self, stream: str, losses: Tensor) -> None:
        """Add the losses `[n]` of a stream's labels, accumulated in float64."""
        if losses.numel():
            self.total[stream] = self.total.get(stream, 0.0) + float(losses.detach().double().sum())
            self.count[stream] = self.count.get(stream, 0) + losses.numel()

    def update(self, other: "StreamLosses") -> None:
        for stream, total in other.total.items():
            self.total[stream] = self.total.get(stream, 0.0) + total
            self.count[stream] = self.count.get(stream, 0) + other.count[stream]

    def means(self) -> dict[str, float]:
        return {stream: total / self.count[stream] for stream, total in self.total.items()}


class HybridLM(nn.Module):
    """A text LM that reads and predicts R ids at each position.

    The input of a position is the sum of its ids' embeddings; each row has a linear head on the trunk's last hidden state.
    What is added starts from the statistics of the trunk's embedding, the speech rows scaled so that all of them together weigh
    as much as one text token.

    Text tokens keep the trunk's own embedding and head, and so its distribution over tokens: the text row is predicted in two
    steps, P(special) or P(token) by a small head, and then P(this token | a token) by the trunk's. Where nine of ten labels are
    PAD, as beside codec frames, the large product over the vocabulary is needed for one label in ten only.
    """

    def __init__(
        self, trunk: Any, rows: Sequence[Row], text_weight: float, speech_weight: float, seed: int = 0
    ) -> None:
        """`trunk`: a causal LM of transformers'. `rows`: the layout's. The weights: of each group's mean loss in the total."""
        super().__init__()
        self.trunk = trunk
        self.rows = tuple(rows)
        self.text_weight, self.speech_weight = text_weight, speech_weight
        table = trunk.get_input_embeddings().weight
        self.vocab_size, width = table.shape
        if rows[0].size != self.vocab_size:
            raise ValueError(f"the layout has {rows[0].size} text tokens and the trunk {self.vocab_size}")
        sizes = [row.n_ids for row in rows[1:]]
        n_special = len(rows[0].specials)
        self.text_special = nn.Embedding(n_special, width)
        self.text_kind_head = nn.Linear(width, n_special + 1)  # the last: a token
        # One table and one head for all speech rows, each row at its own offset: one lookup, one product.
        self.speech = nn.Embedding(sum(sizes), width)
        self.speech_head = nn.Linear(width, sum(sizes), bias=False)
        self.register_buffer("offsets", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        self._sizes = sizes
        self._initialise(table, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialise(self, table: Tensor, random: torch.Generator) -> None:
        mean, std = table.float().mean(0), table.float().std(0)
        for embedding, scale in ((self.text_special, 1.0), (self.speech, max(1, len(self._sizes)) ** -0.5)):
            noise = torch.randn(embedding.weight.shape, generator=random)
            embedding.weight.copy_((mean + std * noise) * scale)
        # Hidden states of trunks differ in size by orders; heads of zeros start from a uniform prediction on any of them.
        for parameter in (*self.text_kind_head.parameters(), *self.speech_head.parameters()):
            parameter.zero_()

    def embed(self, ids: Tensor) -> Tensor:
        """Ids `[B, S, R]` -> the sums of their embeddings, `[B, S, D]`."""
        text, speech = ids[..., 0], ids[..., 1:]
        token = (text >= 0) & (text < self.vocab_size)
        special = text >= self.vocab_size
        summed = self.trunk.get_input_embeddings()(text.where(token, 0)) * token[..., None]
        summed = summed + self.text_special((text - self.vocab_size).where(special, 0)) * special[..., None]
        there = speech != NOTHING
        return summed + (self.speech((speech + self.offsets).where(there, 0)) * there[..., None]).sum(-2)

    def hidden(self, ids: Tensor, **trunk_arguments: Any) -> Tensor:
        """Ids `[B, S, R]` -> the trunk's last hidden state `[B, S, D]`."""
        return self.trunk.get_decoder()(inputs_embeds=self.embed(ids), **trunk_arguments).last_hidden_state

    def text_log_probs(self, hidden: Tensor) -> Tensor:
        """`[..., D]` -> log-probabilities `[..., V + specials]`."""
        kind = self.text_kind_head(hidden).float().log_softmax(-1)
        token = self.trunk.get_output_embeddings()(hidden).float().log_softmax(-1)
        return torch.cat([token + kind[..., -1:], kind[..., :-1]], dim=-1)

    def speech_logits(self, hidden: Tensor) -> list[Tensor]:
        """`[..., D]` -> for each speech row, `[..., size + specials]`."""
        return list(self.speech_head(hidden).split(self._sizes, dim=-1))

    def label_losses(self, batch: Batch) -> "LabelLosses":
        """The loss of every label of a batch, and what is needed to weigh them. Runs the model once."""
        device = self.text_special.weight.device
        labels = torch.from_numpy(batch.labels).to(device)
        weights = torch.from_numpy(batch.weights).to(device)
        hidden = self.batch_hidden(batch)
        learnt = labels != IGNORE
        losses = torch.zeros(labels.shape, device=device)

        at = learnt[..., 0].nonzero(as_tuple=True)
        target, states = labels[..., 0][at], hidden[at]
        is_token = target < self.vocab_size
        kind = (target - self.vocab_size).where(~is_token, len(self.rows[0].specials))
        kinds = F.cross_entropy(self.text_kind_head(states).float(), kind, reduction="none")
        logits = self.trunk.get_output_embeddings()(states[is_token])
        tokens = F.cross_entropy(logits.float(), target[is_token], reduction="none")
        text = kinds.index_add(0, is_token.nonzero()[:, 0], tokens)
        losses = losses.index_put((*at, torch.zeros_like(target)), text)

        at = learnt[..., 1:].any(-1).nonzero(as_tuple=True)
        target, states = labels[at][:, 1:], hidden[at]
        for r, logits in enumerate(self.speech_logits(states), start=1):
            row = F.cross_entropy(logits.float(), target[:, r - 1], reduction="none", ignore_index=IGNORE)
            losses = losses.index_put((*at, torch.full_like(at[0], r)), row)
        return LabelLosses(self.rows, losses, learnt, weights, kinds, tokens)

    def loss(self, batch: Batch) -> tuple[Tensor, StreamLosses]:
        """The weighted loss of a batch, and the plain losses by stream.

        In each of the two groups, text and speech, losses are averaged with the labels' weights (Moshi's way); the total is
        `text_weight` times the one plus `speech_weight` times the other (TASLM's way). Some batches bring a loss of their own.
        """
        if (own := batch.loss(self)) is not None:
            return own
        found = self.label_losses(batch)
        total = self.text_weight * _mean(found.losses[..., 0], found.weights[..., 0])
        if len(self.rows) > 1:
            total = total + self.speech_weight * _mean(found.losses[..., 1:], found.weights[..., 1:])
        return total, found.by_stream()

    def batch_hidden(self, batch: Batch) -> Tensor:
        """The trunk's last hidden state `[B, S, D]` of a batch, no document seeing another."""
        device = self.text_special.weight.device
        mask = torch.from_numpy(may_attend(batch.documents))[:, None].to(device)
        # An additive mask is what every attention implementation takes.
        blocked = torch.zeros(mask.shape, device=device).masked_fill(~mask, torch.finfo(torch.float32).min)
        positions = torch.from_numpy(batch.positions).to(device)
        inputs = torch.from_numpy(batch.inputs).to(device)
        return self.hidden(inputs, attention_mask=blocked, position_ids=positions, use_cache=False)


@dataclass
class LabelLosses:
    """Cross-entropies in nats of single labels, that is their negative log-probabilities, with their gradients.

    Attributes:
        rows: the layout's. losses: float `[B, S, R]`, 0 where nothing is learnt; the text row's is that of the special or token
            as `text_log_probs` gives it. learnt: bool `[B, S, R]`. weights: float32 `[B, S, R]`, the labels' within their group.
        text_kinds, text_tokens: the two parts of the text row's losses, `[n]` over its labels and `[m]` over its tokens.
    """

    rows: tuple[Row, ...]
    losses: Tensor
    learnt: Tensor
    weights: Tensor
    text_kinds: Tensor
    text_tokens: Tensor

    def by_stream(self) -> StreamLosses:
        """Sums and counts by stream."""
        streams = StreamLosses()
        streams.add("pad", self.text_kinds)
        streams.add("text", self.text_tokens)
        for r, row in enumerate(self.rows[1:], start=1):
            streams.add(row.name, self.losses[..., r][self.learnt[..., r]])
        return streams

    def by_document(self, documents: Tensor) -> Tensor:
        """Sums of unweighted losses `[B, n_documents, R]` over the documents `[B, S]` of each packed row, as in `Batch`."""
        n_documents = int(documents.max()) + 1 if documents.numel() else 0
        index = documents.clamp(min=0)[..., None].expand(self.losses.shape)
        summed = self.losses.new_zeros((len(documents), n_documents, self.losses.shape[-1]))
        return summed.scatter_add(1, index, self.losses)


def _mean(losses: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean; 0 where no label has weight."""
    return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


def load_trunk(folder: Path, n_layers: int | None = None) -> Any:
    """A causal LM from a folder, in float32, its first `n_layers` layers only. Raises UserError where that cannot be had."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if n_layers is not None:
            if n_layers > config.num_hidden_layers:
                raise UserError(
                    f"{folder} has {config.num_hidden_layers} layers, and train.trunk_layers asks for {n_layers}"
                )
            config.num_hidden_layers = n_layers
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:n_layers]
        return AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no causal LM here: {error}") from None


def empty_trunk(config: dict[str, Any]) -> Any:
    """A causal LM of a config as `to_dict` gives it, in float32, its weights still to be loaded."""
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32)
