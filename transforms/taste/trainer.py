"""The tokenizer and its decoder, one step of each stage of fitting, and how well they do on what was kept out."""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from transforms.taste import examples as ex
from transforms.taste.aggregator import word_mean
from transforms.taste.decoding import Compact, Decoding, FullSize, Scores
from transforms.taste.model import TasteTokenizer
from transforms.taste.options import FitTasteOptions

Mode = Literal["text", "plain", "quantised"]
"""What the decoder gets beside the text: nothing, word vectors, or their codes."""


class Pass(NamedTuple):
    """What one batch gives.

    Attributes:
        loss: of the decoder. commitment: of the quantiser. scores: of the units.
        indices: int64 `[words in the batch, R]`; `[0, 0]` where nothing was quantised.
    """

    loss: Tensor
    commitment: Tensor
    scores: Scores
    indices: Tensor


class Trainer:
    """The tokenizer, the decoder, and one step of each stage."""

    def __init__(self, model: TasteTokenizer, options: FitTasteOptions, voice_dim: int) -> None:
        self.model, self.options = model, options
        tokens = model.aggregator.embedding.num_embeddings
        self.decoding: Decoding = (
            FullSize(model.dim, tokens, options, voice_dim)
            if options.decoder == "unit_lm"
            else Compact(model.dim, options, voice_dim)
        )
        self.decoder = self.decoding.network.to(model.device)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.prefix = model.prefix(options.language)
        # The codebooks follow their input by moving averages, so what makes that input must move slowly.
        slow = [p for part in (model.aggregator, model.quantiser) for p in part.parameters() if p.requires_grad]
        groups = [
            {"params": list(self.decoder.parameters()), "lr": options.learning_rate},
            {"params": slow, "lr": options.tokenizer_learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
        total = options.steps_text + options.steps_plain + options.steps_quantised
        settled = options.steps_text + options.steps_plain + options.steps_settle

        def slow_rate(step: int) -> float:
            quantised = step >= options.steps_text + options.steps_plain
            return _cosine(step, total) * (options.quantised_rate * (step >= settled) if quantised else 1.0)

        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, [lambda step: _cosine(step, total), slow_rate]
        )

    def word_vectors(self, batch: ex.Batch) -> Tensor:
        """`[words in the batch, D]`, before quantisation."""
        batch = batch.to(self.model.device)
        vectors = self.model.aggregator(self.prefix, batch.ids, batch.keys, batch.values, batch.heard)
        return word_mean(vectors[batch.valid].float(), batch.word_ids, batch.n_words)

    def predict(self, batch: ex.Batch, mode: Mode) -> Pass:
        """Teacher-forced predictions of a batch's units."""
        batch = batch.to(self.model.device)
        device = batch.ids.device
        codes, coded = None, None
        commitment, indices = torch.zeros((), device=device), torch.zeros(0, 0, dtype=torch.long)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.bfloat16):
            if mode != "text":
                codes = self.word_vectors(batch)
                if mode == "quantised":
                    with torch.autocast(device.type, enabled=False):
                        codes, indices, commitment = self.model.quantiser(codes, self.generator)
                if self.model.training:
                    drawn = torch.rand(len(batch.voices), generator=self.generator)
                    coded = (drawn >= self.options.text_share).to(device)
            loss, scores = self.decoding(batch, self.model.aggregator.embedding, codes, coded)
        return Pass(loss, commitment, scores, indices)

    def step(self, batch: ex.Batch, mode: Mode) -> Pass:
        """One step of gradient descent."""
        self.model.train()
        self.decoder.train()
        result = self.predict(batch, mode)
        self.optimizer.zero_grad(set_to_none=True)
        (result.loss + result.commitment).backward()
        for group in self.optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimizer.step()
        self.schedule.step()
        return result._replace(loss=result.loss.detach(), commitment=result.commitment.detach())

    @torch.no_grad()
    def evaluate(self, examples: list[ex.Example], mode: Mode) -> dict[str, Any]:
        """Loss, top-1 and top-5 accuracy of the units; with codes, the share of each codebook in use too."""
        self.model.eval()
        self.decoder.eval()
        passes = [self.predict(ex.collate(group), mode) for group in ex.batches(examples, self.options.batch)]
        figures = sum((p.scores for p in passes), Scores()).figures()
        if mode == "quantised":
            return figures | {
                "codes_in_use": codes_in_use(passes, self.options.size),
                "perplexity": perplexity(passes, self.options.size),
            }
        return figures

    @torch.no_grad()
    def start_quantiser(self, examples: list[ex.Example]) -> None:
        """k-means over the word vectors of all examples."""
        self.model.eval()
        groups = ex.batches(examples, self.options.batch)
        self.model.quantiser.initialise(torch.cat([self.word_vectors(ex.collate(g)) for g in groups]), self.generator)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """What a fit writes. The tensors are the model's own: they change with the next step."""
        return {"model": self.model.fitted(), "decoder": self.decoder.state_dict()}

    @torch.no_grad()
    def restore_weights(self, weights: dict[str, dict[str, Tensor]]) -> None:
        """Put `weights` back."""
        for name, tensor in self.model.fitted().items():
            tensor.copy_(weights["model"][name])
        self.decoder.load_state_dict(weights["decoder"])

    def state(self) -> dict[str, Any]:
        """All that a fit goes on from: weights, codebooks and their averages, the optimizer, and what is drawn at random."""
        return {
            **self.weights(),
            "usage": self.model.quantiser.usage,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "torch": torch.get_rng_state(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`, bit for bit."""
        self.restore_weights(state)
        self.model.quantiser.usage.copy_(state["usage"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])


def perplexity(passes: list[Pass], size: int) -> list[float]:
    """Of each codebook: the exponential of the entropy of its codes, as many as it would be if all were used alike."""
    columns = torch.cat([p.indices for p in passes]).unbind(-1)
    shares = [torch.bincount(column, minlength=size).float() / len(column) for column in columns]
    return [round(float(torch.special.entr(share).sum().exp()), 1) for share in shares]


def codes_in_use(passes: list[Pass], size: int) -> list[float]:
    """Share of each codebook's `size` entries that the passes used."""
    indices = torch.cat([p.indices for p in passes])
    return [round(len(column.unique()) / size, 3) for column in indices.unbind(-1)]


def _cosine(step: int, total: int, warm_up: int = 50) -> float:
    """Share of the peak learning rate: up in a line over `warm_up` steps, then down in half a cosine to a twentieth."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, total - warm_up)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
