"""Heads for continuous targets: a Gaussian in the space of a frozen RVQ, and a flow for any latents.

Shapes: N positions, D the trunk's width, d a latent's dimensions, R speech rows.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from schemas.errors import UserError
from training.options import FlowOptions, GaussianOptions


class NormalHead(nn.Module):
    """A Gaussian for continuous targets, as TASLM's embedding variant has it (arXiv 2504.07053).

    Of a target c, with mu = linear(hidden), a learnt log-variance v of each dimension, and z = mu + exp(v / 2) noise,

        loss = 0.5 mean((z - c)^2) + 0.5 * 0.5 mean(exp(v) + (mu - c)^2 - 1 - v)

    Attributes:
        dim: d. draws: times that a target is looked at. drawn: the shape of the normal numbers that `drawn_losses` takes for
            each position. A FlowHead has them too.
    """

    def __init__(self, width: int, dim: int, random: torch.Generator) -> None:
        super().__init__()
        self.dim, self.draws, self.drawn = dim, 1, (dim,)
        self.mean = nn.Linear(width, dim)
        self.log_variance = nn.Parameter(torch.zeros(dim))
        self.project = nn.Linear(dim, width)  # of a vector that comes in
        with torch.no_grad():
            # Hidden states differ in size by orders from trunk to trunk. With zeros the first distribution is that of normalised
            # latents, whatever the state: mean 0, deviation 1.
            self.mean.weight.zero_()
            self.project.weight.normal_(0, dim**-0.5, generator=random)
            self.mean.bias.zero_()
            self.project.bias.zero_()

    def losses(self, states: Tensor, target: Tensor, noise: Tensor) -> Tensor:
        """Of states `[N, D]`, targets `[N, d]` and standard normal noise `[N, d]`: `[N]`."""
        mean, log_variance = self.mean(states).float(), self.log_variance.float()
        z = mean + (0.5 * log_variance).exp() * noise
        divergence = 0.5 * (log_variance.exp() + (mean - target) ** 2 - 1 - log_variance)
        return 0.5 * ((z - target) ** 2).mean(-1) + 0.5 * divergence.mean(-1)

    def drawn_losses(self, states: Tensor, target: Tensor, drawn: Tensor) -> Tensor:
        """As `losses`; of the mean alone where the head is not in training."""
        return self.losses(states, target, drawn if self.training else torch.zeros_like(drawn))

    def sample(self, states: Tensor, random: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents `[..., d]` for states `[..., D]`; the mean where the temperature is 0."""
        mean = self.mean(states).float().cpu()
        noise = torch.randn(mean.shape, generator=random) * temperature
        return mean + (0.5 * self.log_variance.detach().float().cpu()).exp() * noise


class GaussianHead(NormalHead):
    """A NormalHead for what a position's codes add up to, which is quantised again: TASLM's embedding variant.

    The target is the sum of a position's code vectors, from the codebooks of the tokenizer, which stay as they are. Sampled z go
    through the residual quantiser, level by level, and the codes found are the next input.
    """

    codebooks: Tensor

    def __init__(self, width: int, sizes: list[int], options: GaussianOptions, random: torch.Generator) -> None:
        """`sizes`: tokens of each of the R speech rows."""
        if len(set(sizes)) != 1:
            raise ValueError(f"a Gaussian head needs codebooks of one size, and the layout has {sizes}")
        super().__init__(width, options.dim, random)
        self.register_buffer("codebooks", torch.zeros(len(sizes), sizes[0], options.dim))

    def load_codebooks(self, options: GaussianOptions, target_std: float) -> None:
        """Take the codebooks from the options' file, start at their mean, and `project` at the scale of the trunk's embedding.

        Raises UserError where they are not those of the layout's stream.
        """
        if options.codebooks is None:
            raise UserError("train.model.latent.codebooks: name the tokenizer's file, or take a layout with latents")
        try:
            with safe_open(str(Path(options.codebooks).expanduser()), framework="pt") as file:
                found = file.get_tensor(options.tensor)
        except (OSError, SafetensorError) as error:
            raise UserError(f"train.model.latent.codebooks: {options.codebooks}: {error}") from None
        expected = tuple(self.codebooks.shape)
        if found.dim() != 3 or found.shape[0] < expected[0] or tuple(found.shape[1:]) != expected[1:]:
            raise UserError(
                f"{options.codebooks}: {options.tensor} is {list(found.shape)}, and the layout needs {list(expected)} "
                "(rows, codes, train.model.latent.dim)"
            )
        with torch.no_grad():
            self.codebooks.copy_(found[: expected[0]])
            # The mean and the deviation of a sum of codes that are all as likely, each whatever the others are.
            self.mean.bias.copy_(self.codebooks.float().mean(1).sum(0))
            total = self.codebooks.float().var(1).sum(0).mean().sqrt()
            self.project.weight.mul_(target_std / total.clamp(min=1e-6))

    def vectors(self, ids: Tensor, there: Tensor) -> Tensor:
        """Ids `[..., R]`, of which those `there` are tokens -> the sum of their code vectors, `[..., d]`."""
        rows = torch.arange(len(self.codebooks), device=ids.device)
        return (self.codebooks[rows, ids.where(there, 0)] * there[..., None]).sum(-2)

    def nearest(self, level: int, residual: Tensor, ids: Tensor) -> int:
        """The id among `ids` (int64 `[n]`) whose code vector is nearest to what is left of a latent, `[d]`."""
        vectors = self.codebooks[level][ids].to(residual.device)
        return int(ids[(vectors - residual).square().sum(-1).argmin()])


class _Block(nn.Module):
    """A residual MLP, its norm shifted and scaled by a condition (adaLN-zero, arXiv 2212.09748)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.condition = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.condition(F.silu(condition)).chunk(3, dim=-1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class FlowHead(nn.Module):
    """Flow matching with a small MLP, as the heads of MAR (arXiv 2406.11838) and of CALM (arXiv 2509.06926).

    On the straight way `x_t = (1 - t) noise + t latent` the MLP learns the velocity `latent - noise` given t and the trunk's
    hidden state; several t are drawn for a position, since the MLP is cheap beside the trunk. Sampling follows the velocity from
    noise in equal Euler steps (arXiv 2210.02747). Latents are expected to be normalised to mean 0 and variance 1.
    """

    def __init__(self, width: int, dim: int, options: FlowOptions, random: torch.Generator) -> None:
        super().__init__()
        self.options = options
        self.dim, self.draws, self.drawn = dim, options.draws, (options.draws, dim + 1)
        inner = options.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=random)))
            self.project = nn.Linear(dim, width)  # of a latent that comes in
            self.state = nn.Linear(width, inner)
            self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, inner), nn.SiLU(), nn.Linear(inner, inner))
            self.start = nn.Linear(dim, inner)
            self.blocks = nn.ModuleList(_Block(inner) for _ in range(options.depth))
            self.norm = nn.LayerNorm(inner)
            self.end = nn.Linear(inner, dim)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def velocity(self, x: Tensor, time: Tensor, states: Tensor) -> Tensor:
        """At points x `[N, d]` and times `[N]` given states `[N, D]`: `[N, d]`."""
        condition = self.time(_waves(time)) + self.state(states)
        hidden = self.start(x)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.end(self.norm(hidden)).float()

    def losses(self, states: Tensor, target: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Of states `[N, D]`, targets `[N, d]`, noise `[N, M, d]` and times `[N, M]` in 0..1: means over M and d, `[N]`."""
        n, m, dim = noise.shape
        t = times[..., None]
        x = (1 - t) * noise + t * target[:, None]
        states = states[:, None].expand(-1, m, -1).reshape(n * m, states.shape[-1])
        found = self.velocity(x.reshape(n * m, dim), times.reshape(-1), states).view(n, m, dim)
        return (found - (target[:, None] - noise)).square().mean((1, 2))

    def drawn_losses(self, states: Tensor, target: Tensor, drawn: Tensor) -> Tensor:
        """As `losses`, of normal numbers `[N, M, d + 1]`: the noise, and what the times are made of."""
        # A normal number through its own distribution function is uniform in 0..1.
        return self.losses(states, target, drawn[..., 1:], torch.special.ndtr(drawn[..., 0]))

    def sample(self, states: Tensor, random: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Latents `[N, d]` for states `[N, D]`. `temperature` scales the noise that the way begins with."""
        x = torch.randn(len(states), self.dim, generator=random).to(states.device) * temperature
        for step in range(self.options.steps):
            time = torch.full((len(states),), step / self.options.steps, device=states.device)
            x = x + self.velocity(x, time, states) / self.options.steps
        return x


_FREQUENCIES = 32


def make_latent_head(
    width: int, layout_dim: int, options: GaussianOptions | FlowOptions | None, random: torch.Generator
) -> NormalHead | FlowHead | None:
    """The head of continuous latents: what the options say; flow matching where they say nothing and the layout has latents.

    Args:
        layout_dim: dimensions of the layout's latents; 0 where it has none.

    Raises UserError where the options do not fit the layout.
    """
    if options is None and layout_dim:
        options = FlowOptions()
    if isinstance(options, GaussianOptions):
        if layout_dim and options.codebooks is not None:
            raise UserError("train.model.latent.codebooks: the layout has latents, and no codes: set it to null")
        return NormalHead(width, layout_dim, random) if layout_dim else None
    if options is None:
        return None
    if layout_dim and options.dim not in (None, layout_dim):
        raise UserError(
            f"train.model.latent.dim is {options.dim}, and the layout's latents have {layout_dim}: leave it out"
        )
    dim = layout_dim or options.dim
    if not dim:
        raise UserError("train.model.latent: the layout has no latents, and the flow head no dim")
    return FlowHead(width, dim, options, random)


def _waves(time: Tensor) -> Tensor:
    """Times `[N]` in 0..1 as sines and cosines `[N, 2 * _FREQUENCIES]`."""
    angles = time[:, None] * 1000.0 ** torch.linspace(0, 1, _FREQUENCIES, device=time.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
