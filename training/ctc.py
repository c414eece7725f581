"""The speech decoder of LLaMA-Omni (arXiv 2409.06666): units read off a text's states by CTC, all at once.

Shapes: N documents, D the trunk's width, T copies of states, the longest document's.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel

from training.layouts.ctc import upsampled
from training.options import CtcOptions


class CtcDecoder(nn.Module):
    """A few causal layers of the trunk's own kind over states of which each is copied `upsample` times.

    The copies of a state differ by their place alone: attention weighs the states before them otherwise from copy to copy. The
    first state's would have nothing before them but each other, and so all be the same, and greedy reading could say one unit of
    the first token at most. So the state before it, BOS's, is read first; what comes of it is dropped. A linear head outside says
    what each copy is.
    """

    def __init__(self, config: Any, upsample: int, options: CtcOptions, random: torch.Generator) -> None:
        """`config`: the trunk's, as transformers has it."""
        super().__init__()
        self.upsample = upsample
        own = copy.deepcopy(config)
        own.num_hidden_layers = options.layers
        if getattr(own, "layer_types", None):
            own.layer_types = ["full_attention"] * options.layers
        own.vocab_size, own.pad_token_id = 1, None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=random)))
            self.layers = AutoModel.from_config(own, attn_implementation="sdpa", dtype=torch.float32)
        self.layers.set_input_embeddings(None)  # it reads states

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """States `[1 + n, D]` of N documents, BOS's first -> `[N, T, D]`, a document's own in its first `n * upsample`."""
        copies = pad_sequence(
            [torch.cat([s[:1], s[1:][upsampled(len(s) - 1, self.upsample)]]) for s in states], batch_first=True
        )
        # No state sees a later one, and so none the padding behind it.
        return self.layers(inputs_embeds=copies, use_cache=False).last_hidden_state[:, 1:]


def ctc_losses(logits: Tensor, lengths: Sequence[int], targets: Sequence[Tensor], blank: int) -> Tensor:
    """Negative log-probabilities `[N]` of the targets `[U]` of N documents, given logits `[N, T, units + specials]`."""
    return F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        torch.cat(list(targets)),
        torch.tensor(lengths),
        torch.tensor([len(target) for target in targets]),
        blank=blank,
        reduction="none",
    )
