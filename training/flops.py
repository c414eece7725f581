"""Floating-point operations of a training step, counted, and what devices can do: together, the model FLOPs utilisation.

Counted is what the loss needs (PaLM, arXiv 2204.02311, appendix B): products of matrices only, padding and masked attention left
out. Two operations a multiply-add; the backward pass costs as much again for the inputs and, where the weights are trained, for
these.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from training.depth import StepLinear
from training.layouts.base import IGNORE
from training.packing import PADDING, Batch
from training.products import product, suits

PEAK_TFLOPS = {
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10G": 70.0,
    "RTX 4090": 165.2,
}
"""Dense bfloat16 with float32 accumulation, from the makers' data sheets, by a part of the device's name; the first that fits."""


def peak_flops(device: torch.device) -> float | None:
    """Operations a second that a device can do, in bfloat16; None for one that is not in the table.

    Of a CPU it is measured here, by products of 1,024 x 1,024 float32 matrices by the faster of BLAS and oneDNN.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if part in name), None)
    if device.type != "cpu":
        return None
    a = torch.ones(1024, 1024)
    times = []
    for multiply in (torch.matmul, *([product] if suits("onednn", device) else [])):
        multiply(a, a)
        for _ in range(3):
            started = time.perf_counter()
            multiply(a, a)
            times.append(time.perf_counter() - started)
    return 2 * 1024**3 / min(times)


class Flops:
    """Counts the operations of steps of a model."""

    def __init__(self, model: Any) -> None:
        config = model.trunk.config
        decoder = model.trunk.get_decoder()
        self.position = _products(decoder)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # Scores and their weighted sum: 2 products of 2 * width operations for a pair; the backward pass costs twice that.
        self.pair = 3 * 4 * config.num_attention_heads * head_dim * config.num_hidden_layers
        self.causal = model.causal
        self.text = _products(model.text_kind_head)
        head = model.trunk.get_output_embeddings()
        self.token = _operations(head.weight)
        self.vocab_size = model.vocab_size
        self.first = 1 + len(model._sizes)
        self.speech = _products(model.speech_head) if model.speech_head is not None else 0
        self.depth = 0
        if model.depth is not None:
            # A shared set of weights is used at each step.
            times = len(model.depth.sizes) + 1 if model.depth.csm else 1
            self.depth = times * _products(model.depth) + sum(_operations(head) for head in model.depth.heads)

        self.latent = 0
        if model.latent_head is not None:
            # A flow is asked at several times of each latent.
            self.latent = _products(model.latent_head) * model.latent_head.draws

        self.unit_states = model.ctc.upsample * (_products(model.ctc) + self.speech) if model.ctc is not None else 0

    def step(self, batch: Batch) -> float:
        """Of a forward and a backward pass over a batch."""
        lengths = [np.unique(row[row != PADDING], return_counts=True)[1] for row in batch.documents]
        pairs = sum(float((n * (n + 1) / 2 if self.causal else n * n).sum()) for n in lengths)
        learnt = batch.labels != IGNORE
        text = batch.labels[..., 0][learnt[..., 0]]
        token = (batch.inputs[..., 0] >= 0) & (batch.inputs[..., 0] < self.vocab_size)
        read = sum(int((token[b] & (batch.documents[b] == d)).sum()) for b, d, _ in batch.ctc)
        return (
            self.position * batch.n_positions
            + self.pair * pairs
            + self.text * len(text)
            + self.token * int((text < self.vocab_size).sum())
            + self.speech * int(learnt[..., 1 : self.first].any(-1).sum())
            + self.depth * int(learnt[..., self.first :].any(-1).sum())
            + self.unit_states * read
            + self.latent * batch.n_latents
        )


def _operations(weight: torch.Tensor) -> int:
    return (6 if weight.requires_grad else 4) * weight.numel()


def _products(module: nn.Module) -> int:
    """Of all linear maps of a module, each used once."""
    return sum(_operations(m.weight) for m in module.modules() if isinstance(m, nn.Linear | StepLinear))
