"""The hybrid LM: any Hugging Face causal LM as the trunk, with embeddings and heads for a layout's other ids.

Shapes: B packed rows, S positions, R rows of ids, D the trunk's width, V the text vocabulary.
"""

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from schemas.errors import UserError
from training import lora
from training.attention import mask
from training.ctc import CtcDecoder, ctc_losses
from training.depth import DepthTransformer
from training.heads import GaussianHead, make_latent_head
from training.layouts.base import IGNORE, NOTHING, Row
from training.layouts.ctc import collapse
from training.losses import LabelLosses, StreamLosses
from training.options import GaussianOptions, ModelOptions
from training.packing import PADDING, Batch

# transformers 5 prints bars and reports of its own for every load and save.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


class HybridLM(nn.Module):
    """A text LM that reads and predicts R ids at each position.

    The input of a position is the sum of its ids' embeddings; each row has a linear head on the trunk's last hidden state, or a
    depth transformer predicts the speech rows one after the other, or their codes are predicted as one vector (`ModelOptions`).
    What is added starts from the statistics of the trunk's embedding, the speech rows scaled so that all of them together weigh
    as much as one text token.

    Text tokens keep the trunk's own embedding and head, and so its distribution over tokens: the text row is predicted in two
    steps, P(special) or P(token) by a small head, and then P(this token | a token) by the trunk's. Where nine of ten labels are
    PAD, as beside codec frames, the large product over the vocabulary is needed for one label in ten only. Every row has a
    softmax of its own, so that text is never weighed against speech, whatever the position holds.
    """

    def __init__(
        self,
        trunk: Any,
        rows: Sequence[Row],
        text_weight: float,
        speech_weight: float,
        seed: int = 0,
        options: ModelOptions | None = None,
        text_kl: float = 0.0,
        keep_base: bool = True,
        upsample: int = 0,
        latent_dim: int = 0,
        causal: bool = True,
    ) -> None:
        """
        Args:
            trunk: a causal LM of transformers'. rows: the layout's.
            text_weight, speech_weight: of each group's mean loss in the total.
            text_kl: share of a text token's loss that compares with the frozen trunk (`LossOptions.text_kl`).
            keep_base: the trunk will be trained, so that a copy of it has to be kept for that, where there is no LoRA.
            upsample: copies of each text token's state that the units are read off by CTC; 0 where they are rows' labels.
            latent_dim: dimensions of the layout's continuous latents; 0 where it has none.
            causal: no position sees a later one; otherwise it sees its whole document (`Layout.in_place`).
        """
        super().__init__()
        self.trunk = trunk
        self.rows = tuple(rows)
        self.options = options or ModelOptions()
        self.text_weight, self.speech_weight, self.text_kl = text_weight, speech_weight, text_kl
        self.causal = causal
        for module in trunk.modules():
            if hasattr(module, "is_causal"):
                module.is_causal = causal
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
        self.register_buffer("offsets", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        random = torch.Generator().manual_seed(seed)
        depth, latent = self.options.depth, self.options.latent
        self.depth = DepthTransformer(width, [row.n_ids for row in rows], depth, random) if depth else None
        self.gaussian = (
            GaussianHead(width, [row.size for row in rows[1:]], latent, random)
            if isinstance(latent, GaussianOptions) and not latent_dim
            else None
        )
        self.latent_head = make_latent_head(width, latent_dim, latent, random)
        self.latent_weight = latent.weight if latent else 1.0
        self.ctc = CtcDecoder(trunk.config, upsample, self.options.ctc, random) if upsample else None
        # Rows that the linear head predicts: all, the first, or none.
        self._sizes = [] if self.gaussian else sizes[: self.depth.first - 1] if self.depth else sizes
        self.speech_head = nn.Linear(width, sum(self._sizes), bias=False) if self._sizes else None
        self.fusion = nn.Parameter(torch.tensor([-2.0, 2.0])) if self.options.fusion == "softmax" else None
        self.base = (
            copy.deepcopy(trunk).requires_grad_(False) if text_kl and keep_base and not self.options.lora else None
        )
        self._initialise(table, torch.Generator().manual_seed(seed))
        if self.options.lora:
            lora.add(trunk, self.options.lora, seed)

    @torch.no_grad()
    def _initialise(self, table: Tensor, random: torch.Generator) -> None:
        mean, std = table.float().mean(0), table.float().std(0)
        n_speech = max(1, len(self.rows) - 1)
        for embedding, scale in ((self.text_special, 1.0), (self.speech, n_speech**-0.5)):
            noise = torch.randn(embedding.weight.shape, generator=random)
            embedding.weight.copy_((mean + std * noise) * scale)
        if self.latent_head:
            # What has deviation 1 comes out as one text token does.
            self.latent_head.project.weight.normal_(0, float(std.mean()) * self.latent_head.dim**-0.5, generator=random)
            self.latent_head.project.bias.copy_(mean)
        # Hidden states of trunks differ in size by orders; heads of zeros start from a uniform prediction on any of them.
        heads = [self.text_kind_head, *([self.speech_head] if self.speech_head is not None else [])]
        for parameter in (p for head in heads for p in head.parameters()):
            parameter.zero_()

    # ---- in

    def embed_text(self, text: Tensor) -> Tensor:
        """Ids of the text row `[...]` -> `[..., D]`, zeros for NOTHING."""
        token = (text >= 0) & (text < self.vocab_size)
        special = text >= self.vocab_size
        summed = self.trunk.get_input_embeddings()(text.where(token, 0)) * token[..., None]
        return summed + self.text_special((text - self.vocab_size).where(special, 0)) * special[..., None]

    def embed_speech(self, speech: Tensor) -> Tensor:
        """Ids of the speech rows `[..., R - 1]` -> each one's embedding `[..., R - 1, D]`, zeros for NOTHING."""
        there = speech != NOTHING
        return self.speech((speech + self.offsets).where(there, 0)) * there[..., None]

    def embed(self, ids: Tensor, latents: Tensor | None = None) -> Tensor:
        """Ids `[B, S, R]`, latents `[B, S, d]` or None -> inputs of the trunk, `[B, S, D]`."""
        text, speech = self.embed_text(ids[..., 0]), ids[..., 1:]
        if not speech.shape[-1]:
            return text
        there = (speech != NOTHING).any(-1)
        if self.gaussian:
            token = (speech != NOTHING) & (speech < self.rows[1].size)
            vectors = self.gaussian.project(self.gaussian.vectors(speech, token)) * token.any(-1, keepdim=True)
            spoken = vectors + self.embed_speech(speech.where(~token, NOTHING)).sum(-2)
        else:
            spoken = self.embed_speech(speech).sum(-2)
        if self.latent_head and latents is not None:
            given = ~latents[..., 0].isnan()
            spoken = spoken + self.latent_head.project(latents.nan_to_num()) * given[..., None]
            there = there | given
        if self.fusion is None:
            return text + spoken
        shares = self.fusion.softmax(0)
        both = ((ids[..., 0] != NOTHING) & there)[..., None]
        return torch.where(both, shares[0] * spoken + shares[1] * text, spoken + text)

    def hidden(self, ids: Tensor, latents: Tensor | None = None, **trunk_arguments: Any) -> Tensor:
        """Ids `[B, S, R]` -> the trunk's last hidden state `[B, S, D]`."""
        return self.trunk.get_decoder()(inputs_embeds=self.embed(ids, latents), **trunk_arguments).last_hidden_state

    def batch_hidden(self, batch: Batch) -> Tensor:
        """The trunk's last hidden state `[B, S, D]` of a batch, no document seeing another."""
        device = self.text_special.weight.device
        latents = batch.latents
        if latents is None and self.latent_head:
            # A batch of text alone: every process has gradients for every weight, if zeros.
            latents = np.full((*batch.documents.shape, self.latent_head.dim), np.nan, dtype=np.float32)
        return self.hidden(
            torch.from_numpy(batch.inputs).to(device),
            None if latents is None else torch.from_numpy(latents).to(device),
            attention_mask=mask(batch.documents, self.trunk.config._attn_implementation, device, self.causal),
            position_ids=torch.from_numpy(batch.positions).to(device),
            use_cache=False,
        )

    # ---- out

    def text_log_probs(self, hidden: Tensor) -> Tensor:
        """`[..., D]` -> log-probabilities `[..., V + specials]`."""
        kind = self.text_kind_head(hidden).float().log_softmax(-1)
        token = self.trunk.get_output_embeddings()(hidden).float().log_softmax(-1)
        return torch.cat([token + kind[..., -1:], kind[..., :-1]], dim=-1)

    def speech_logits(self, hidden: Tensor) -> list[Tensor]:
        """`[..., D]` -> for each speech row that the linear head predicts, `[..., size + specials]`."""
        return list(self.speech_head(hidden).split(self._sizes, dim=-1)) if self.speech_head is not None else []

    def depth_logits(self, states: Tensor, ids: Tensor) -> list[Tensor]:
        """Logits of the depth transformer's rows for positions of states `[N, D]`, given the first n ids of each, `[N, n]`.

        As many rows as the ids allow: n of 1 give the first of them where it is row 1.
        """
        assert self.depth
        text = self.embed_text(ids[:, 0])
        if ids.shape[1] == 1:
            before = text[:, None]
        else:
            speech, offsets = ids[:, 1:], self.offsets[: ids.shape[1] - 1]
            there = speech != NOTHING
            spoken = self.speech((speech + offsets).where(there, 0)) * there[..., None]
            before = torch.cat([text[:, None], spoken], dim=1)
        return self.depth(states, before[:, self.depth.first - 1 :])

    # ---- losses

    def label_losses(self, batch: Batch) -> LabelLosses:
        """The loss of every label of a batch, and what is needed to weigh them. Runs the trunk once."""
        device = self.text_special.weight.device
        labels = torch.from_numpy(batch.labels).to(device)
        weights = torch.from_numpy(batch.weights).to(device)
        hidden = self.batch_hidden(batch)
        learnt = batch.labels != IGNORE
        found = LabelLosses(
            self.rows, torch.zeros(labels.shape, device=device), torch.from_numpy(learnt).to(device), weights
        )

        # Where there are labels is looked up before they go to the device, which then need not be waited for.
        at = _where(learnt[..., 0], device)
        token_at = _where((batch.labels[..., 0] >= 0) & (batch.labels[..., 0] < self.vocab_size), device)
        among = torch.from_numpy(np.flatnonzero(batch.labels[..., 0][learnt[..., 0]] < self.vocab_size)).to(device)
        target, states = labels[..., 0][at], hidden[at]
        kind = (target - self.vocab_size).where(target >= self.vocab_size, len(self.rows[0].specials))
        found.text_kinds = F.cross_entropy(self.text_kind_head(states).float(), kind, reduction="none")
        scores = self.trunk.get_output_embeddings()(hidden[token_at]).float()
        found.text_tokens = F.cross_entropy(scores, target[among], reduction="none")
        found.put(at, 0, found.text_kinds.index_add(0, among, found.text_tokens))
        if self.text_kl and self.training:
            base, known = self._base_scores(batch, token_at)
            divergence = F.kl_div(scores.log_softmax(-1), base.log_softmax(-1), reduction="none", log_target=True).sum(
                -1
            )
            found.divergence = torch.where(known, divergence - found.text_tokens, 0.0), token_at

        if self.gaussian:
            self._gaussian_losses(batch, hidden, labels, found)
        else:
            self._row_losses(batch, hidden, labels, learnt, found)
        if self.latent_head:
            self._latent_losses(batch, hidden, found)
        if self.ctc:
            self._ctc_losses(batch, hidden, found)
        return found

    def _row_losses(self, batch: Batch, hidden: Tensor, labels: Tensor, learnt: np.ndarray, found: LabelLosses) -> None:
        first = 1 + len(self._sizes)
        at = _where(learnt[..., 1:first].any(-1), device=labels.device)
        target = labels[at]
        if len(set(self._sizes)) == 1 and self.speech_head is not None:
            # One softmax over all rows, on the product as it lies: no copy of each row's share, forward or back.
            logits = self.speech_head(hidden[at]).unflatten(-1, (len(self._sizes), self._sizes[0])).float()
            losses = F.cross_entropy(
                logits.flatten(0, 1), target[:, 1:first].flatten(), reduction="none", ignore_index=IGNORE
            )
            for r, of_row in enumerate(losses.view(len(target), len(self._sizes)).unbind(-1), start=1):
                found.put(at, r, of_row)
        else:
            for r, logits in enumerate(self.speech_logits(hidden[at]), start=1):
                found.put(at, r, F.cross_entropy(logits.float(), target[:, r], reduction="none", ignore_index=IGNORE))
        if self.depth:
            own = learnt[..., first:].any(-1)
            at = _where(own, device=labels.device)
            target = labels[at]
            # The ids of the next position, learnt or not, are what the depth transformer is given.
            following = np.full_like(batch.inputs, NOTHING)
            following[:, :-1] = batch.inputs[:, 1:]
            ids = torch.from_numpy(following[own][:, :-1]).to(labels.device)
            for r, logits in enumerate(self.depth_logits(hidden[at], ids), start=first):
                found.put(at, r, F.cross_entropy(logits.float(), target[:, r], reduction="none", ignore_index=IGNORE))

    def _gaussian_losses(self, batch: Batch, hidden: Tensor, labels: Tensor, found: LabelLosses) -> None:
        """The loss of a position's vector, given to each of its rows. Positions learn it where all rows have a code to learn."""
        assert self.gaussian
        speech = batch.labels[..., 1:]
        own = ((speech >= 0) & (speech < self.rows[1].size)).all(-1)
        at = _where(own, labels.device)
        states, ids = hidden[at], labels[at][:, 1:]
        target = self.gaussian.vectors(ids, torch.ones_like(ids, dtype=torch.bool))
        noise = _noise(batch, own, target.shape[-1:]).to(target) if self.training else torch.zeros_like(target)
        found.latent = self.gaussian.losses(states, target, noise)
        for r in range(1, len(self.rows)):
            found.put(at, r, found.latent)
        found.learnt = found.learnt.clone()
        found.learnt[..., 1:] &= torch.from_numpy(own).to(labels.device)[..., None]

    def _latent_losses(self, batch: Batch, hidden: Tensor, found: LabelLosses) -> None:
        head = self.latent_head
        assert head
        if batch.latent_labels is None:
            own, values = np.zeros(batch.labels.shape[:2], dtype=bool), np.zeros((0, head.dim), np.float32)
        else:
            own = ~np.isnan(batch.latent_labels[..., 0])
            values = batch.latent_labels[own]
        target, drawn = torch.from_numpy(values).to(hidden.device), _noise(batch, own, head.drawn).to(hidden.device)
        found.latent = head.drawn_losses(hidden[_where(own, hidden.device)], target, drawn)

    def ctc_logits(self, states: Sequence[Tensor]) -> Tensor:
        """States `[1 + n, D]` of BOS and n text tokens, of N documents -> `[N, T, units + specials]`, of each token's copies."""
        assert self.ctc
        return self.speech_logits(self.ctc(states))[0]

    def _ctc_losses(self, batch: Batch, hidden: Tensor, found: LabelLosses) -> None:
        assert self.ctc
        if not batch.ctc:
            # Every process has gradients for every weight, if zeros.
            found.ctc = torch.stack([parameter.sum() for parameter in self.ctc.parameters()]).sum()[None] * 0
            return
        of = [
            _read(batch.inputs[row], self.vocab_size, batch.documents[row] == document)
            for row, document, _ in batch.ctc
        ]
        states = [hidden[row, torch.from_numpy(at)] for (row, _, _), at in zip(batch.ctc, of, strict=True)]
        targets = [torch.from_numpy(units).to(hidden.device) for _, _, units in batch.ctc]
        lengths = [(len(at) - 1) * self.ctc.upsample for at in of]
        found.ctc = ctc_losses(self.ctc_logits(states), lengths, targets, self.rows[1].special("blank"))
        found.n_units = batch.n_units

    @torch.no_grad()
    def read_units(self, inputs: np.ndarray) -> np.ndarray:
        """The units `[U]` of one sequence of inputs `[S, R]`: of each copy the likeliest, repeats merged and blanks removed."""
        ids = torch.from_numpy(inputs).to(self.text_special.weight.device)
        hidden = self.hidden(ids[None], use_cache=False)[0]
        at = _read(inputs, self.vocab_size)
        if len(at) < 2:
            return np.zeros(0, dtype=np.int64)
        path = self.ctc_logits([hidden[torch.from_numpy(at)]])[0].argmax(-1).cpu().numpy()
        return collapse(path, self.rows[1].special("blank"))

    @torch.no_grad()
    def _base_scores(self, batch: Batch, at: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What the text LM makes of the text alone: logits `[m, V]` for the token labels at `at`, and whether it can, `[m]`.

        It reads the text tokens of each document without what stands between them. The first token of a document has nothing
        before it, and no prediction.
        """
        text = batch.inputs[..., 0]
        token = (text >= 0) & (text < self.vocab_size)
        # Tokens first, in their order; as many columns as the fullest row has tokens.
        order = np.argsort(~token, axis=1, kind="stable")[:, : max(1, int(token.sum(1).max(initial=0)))]
        ids, kept = np.take_along_axis(text, order, 1), np.take_along_axis(token, order, 1)
        documents = np.where(kept, np.take_along_axis(batch.documents, order, 1), PADDING)
        same = np.pad(documents[:, 1:] == documents[:, :-1], ((0, 0), (1, 0)))
        column = np.arange(ids.shape[1])[None]
        positions = column - np.maximum.accumulate(np.where(same, 0, column), axis=1)
        # The last token up to each position, as a column of the short rows; -1 before the first token of the row.
        last = np.cumsum(token, axis=1) - 1
        b, s = (index.cpu().numpy() for index in at)
        read = last[b, s].clip(min=0)
        known = (last[b, s] >= 0) & (documents[b, read] == batch.documents[b, s])
        device = self.text_special.weight.device
        trunk = self.base if self.base is not None else self.trunk
        arguments = {
            "inputs_embeds": trunk.get_input_embeddings()(torch.from_numpy(np.where(kept, ids, 0)).to(device)),
            "attention_mask": mask(documents, self.trunk.config._attn_implementation, device),
            "position_ids": torch.from_numpy(positions).to(device),
            "use_cache": False,
        }
        with lora.without_adapters(trunk) if self.options.lora else contextlib.nullcontext():
            hidden = trunk.get_decoder()(**arguments).last_hidden_state
        scores = trunk.get_output_embeddings()(hidden[at[0], torch.from_numpy(read).to(device)]).float()
        return scores, torch.from_numpy(known).to(device)

    def forward(self, batch: Batch) -> tuple[Tensor, LabelLosses]:
        """The weighted loss of a batch, or a part's share of it, and what it is made of.

        In each of the two groups, text and speech, losses are averaged with the labels' weights (Moshi's way); the total is
        `text_weight` times the one plus `speech_weight` times the other (TASLM's way). Some batches bring a loss of their own.
        """
        if (own := batch.loss(self)) is not None:
            return own
        found = self.label_losses(batch)
        tiny = float(np.finfo(np.float32).tiny)
        n_text, n_speech, n_latents, n_units = (max(norm, tiny) for norm in batch.norms or batch.sums())
        weighted = found.losses * found.weights
        text = weighted[..., 0].sum()
        if found.divergence:
            divergence, at = found.divergence
            text = text + self.text_kl * (divergence * found.weights[..., 0][at]).sum()
        total = self.text_weight * text / n_text + self.speech_weight * weighted[..., 1:].sum() / n_speech
        if self.latent_head and found.latent is not None:
            total = total + self.latent_weight * found.latent.sum() / n_latents
        if found.ctc is not None:
            total = total + self.speech_weight * found.ctc.sum() / n_units
        return total, found

    def loss(self, batch: Batch) -> tuple[Tensor, StreamLosses]:
        """As `forward`, with the plain losses by stream."""
        total, found = self(batch)
        return total, found.by_stream()


def _read(inputs: np.ndarray, vocab_size: int, own: np.ndarray | bool = True) -> np.ndarray:
    """Where the states are that units are read off, of inputs `[S, R]`: BOS, the first of the `own` positions, and text tokens."""
    at = np.flatnonzero(np.broadcast_to(own, len(inputs)))
    token = (inputs[at, 0] >= 0) & (inputs[at, 0] < vocab_size)
    token[:1] = True
    return at[token]


def _where(mask: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of the true elements of a mask, bool `[B, S]`, on a device."""
    rows, columns = mask.nonzero()
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)


def _noise(batch: Batch, mask: Any, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers `[n, *shape]` for the n positions of a mask `[B, S]`, the same for a row in whatever part it is."""
    drawn = [
        np.random.default_rng(int(seed)).standard_normal((int(row.sum()), *shape), dtype=np.float32)
        for seed, row in zip(batch.seeds, mask, strict=True)
    ]
    return torch.from_numpy(np.concatenate(drawn)) if drawn else torch.zeros((0, *shape))


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
