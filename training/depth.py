"""A small transformer over the rows of one position, so that they need not be predicted independently of each other.

Two kinds (numbers from their public code and papers):

* `moshi` (Moshi, arXiv 2410.00037, section 3.4.1): a step for every speech row, the first given the position's text id, each
  with weights of its own: `x_k = in_k(z) + e_k(row k - 1)`, no positions.
* `csm` (Sesame's CSM): the trunk's linear head predicts the first speech row; one set of weights reads `[z, row 1, row 2, ...]`
  and predicts the others. Its loss may be taken on a random share of the positions, 1/16 in CSM.

Unlike there, ids are embedded by the trunk's own tables and projected, so that no table is held twice.

Shapes: N positions, K steps, D the trunk's width, d this transformer's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.options import DepthOptions


class StepLinear(nn.Module):
    """A linear map without bias, one for each step or one for all: `[N, K, inner]` -> `[N, K, outer]`."""

    def __init__(self, n_steps: int, inner: int, outer: int, random: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_steps, outer, inner, generator=random) * inner**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.weight) == 1:
            return F.linear(x, self.weight[0])
        weight = self.weight[: x.shape[1]]
        return torch.bmm(x.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)


class _Layer(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, n_steps: int, options: DepthOptions, random: torch.Generator) -> None:
        super().__init__()
        width, inner = options.width, options.width * 8 // 3
        self.heads = options.heads
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.qkv = StepLinear(n_steps, width, 3 * width, random)
        self.out = StepLinear(n_steps, width, width, random)
        self.gate = StepLinear(n_steps, width, 2 * inner, random)
        self.down = StepLinear(n_steps, inner, width, random)

    def forward(self, x: Tensor) -> Tensor:
        n, k, width = x.shape
        q, key, value = self.qkv(self.norms[0](x)).view(n, k, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # SDPA's kernels refuse batches of nothing, and a share of a batch may have no label.
        attended = F.scaled_dot_product_attention(q, key, value, is_causal=True) if n else value + 0 * (q + key)
        x = x + self.out(attended.transpose(1, 2).reshape(n, k, width))
        gate, up = self.gate(self.norms[1](x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class DepthTransformer(nn.Module):
    """Predicts the rows `first..R-1` of a position one after the other.

    Attributes: `first`, the first row it predicts: 1 for moshi, 2 for csm.
    """

    def __init__(self, width: int, row_sizes: Sequence[int], options: DepthOptions, random: torch.Generator) -> None:
        """`width`: the trunk's. `row_sizes`: ids of all R rows, the text row's first."""
        super().__init__()
        self.csm = options.kind == "csm"
        self.first = 2 if self.csm else 1
        self.sizes = list(row_sizes[self.first :])
        if not self.sizes:
            raise ValueError(f"a depth transformer of kind {options.kind} needs at least {self.first} speech rows")
        n_steps = len(self.sizes) + (1 if self.csm else 0)
        n_own = 1 if self.csm else n_steps
        self.state_in = StepLinear(n_own, width, options.width, random)
        self.id_in = StepLinear(n_own, width, options.width, random)
        # One set of weights needs to be told the step; CSM does so by rotary positions.
        self.steps = nn.Parameter(torch.randn(n_steps, options.width, generator=random) * 0.02) if self.csm else None
        self.layers = nn.ModuleList(_Layer(n_own, options, random) for _ in range(options.layers))
        self.norm = nn.RMSNorm(options.width)
        # Zeros: a uniform prediction at first, as from the model's other heads.
        self.heads = nn.ParameterList(torch.zeros(size, options.width) for size in self.sizes)

    def forward(self, states: Tensor, before: Tensor) -> list[Tensor]:
        """Logits of the rows that can be predicted from what is given.

        Args:
            states: `[N, D]`. before: `[N, n, D]`, embeddings of the position's rows `first - 1 ..`, n from 1 (0 for none).

        Returns n tensors `[N, n_ids]`, of the rows `first ..`.
        """
        if self.steps is not None:
            x = torch.cat([self.state_in(states[:, None]), self.id_in(before)], dim=1)
            x = x + self.steps[: x.shape[1]]
        else:
            # The state is the same at each step; each step has its own map of it.
            x = self.state_in(states[:, None].expand(-1, before.shape[1], -1)) + self.id_in(before)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)[:, 1 if self.csm else 0 :]
        return [F.linear(x[:, k], self.heads[k]) for k in range(x.shape[1])]
