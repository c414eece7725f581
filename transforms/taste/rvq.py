"""Residual vector quantisation with EMA codebooks, k-means initialisation, quantiser dropout and dead-code revival.

Codebooks as in VQ-VAE-2 (arXiv 1906.00446, appendix A.1), stacked on residuals with dropout of levels as in SoundStream
(arXiv 2107.03312, section III-C). Needs torch alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantised(NamedTuple):
    """What a training pass gives.

    Attributes:
        vectors: `[N, dim]`, quantised; gradients pass straight through to the input.
        indices: int64 `[N, R]`, of all levels, those dropped included.
        commitment: scalar, mean squared distance of each level's input from its code, summed over levels.
    """

    vectors: Tensor
    indices: Tensor
    commitment: Tensor


class ResidualVQ(nn.Module):
    """R codebooks of `size` codes in a projected space of `code_dim` dimensions; each codes what the ones before left over.

    Attributes:
        codebooks: `[R, size, code_dim]`. usage: `[R, size]`, the moving average of how many vectors of a batch take a code.
    """

    codebooks: Tensor
    usage: Tensor

    def __init__(
        self,
        dim: int,
        *,
        levels: int = 4,
        size: int = 512,
        code_dim: int = 128,
        decay: float = 0.99,
        dropout: float = 0.5,
        revive_below: float = 0.02,
    ) -> None:
        """
        Args:
            decay: of the moving averages that the codebooks follow.
            dropout: share of training vectors that keep only their first 1 to R levels, so that a prefix of the levels
                is a code of its own.
            revive_below: a code used less often than this share of the average code is replaced by a vector of the batch.
        """
        super().__init__()
        self.decay, self.dropout, self.revive_below = decay, dropout, revive_below
        self.project_in = nn.Linear(dim, code_dim)
        self.project_out = nn.Linear(code_dim, dim)
        self.register_buffer("codebooks", torch.zeros(levels, size, code_dim))
        self.register_buffer("usage", torch.ones(levels, size), persistent=False)

    @property
    def sizes(self) -> tuple[int, ...]:
        levels, size, _ = self.codebooks.shape
        return (size,) * levels

    @torch.no_grad()
    def initialise(self, vectors: Tensor, generator: torch.Generator, iterations: int = 20) -> None:
        """Fit projections and codebooks to `[N, dim]` vectors.

        The projections become the principal axes and their transpose, scaled to a variance of 1: so what was learned on
        unquantised vectors still holds, and the commitment is in units of the data's own variance. Every codebook becomes
        the k-means centroids of what the levels before it leave.
        """
        mean = vectors.mean(0)
        variances, axes = torch.linalg.eigh((vectors - mean).T.cov())
        code_dim = self.codebooks.shape[-1]
        axes = axes[:, -code_dim:]
        scale = variances[-code_dim:].mean().sqrt()
        self.project_in.weight.copy_(axes.T / scale)
        self.project_in.bias.copy_(-(axes.T @ mean) / scale)
        self.project_out.weight.copy_(axes * scale)
        self.project_out.bias.copy_(mean)
        residual = self.project_in(vectors)
        for level, codebook in enumerate(self.codebooks):
            codebook.copy_(k_means(residual, len(codebook), generator, iterations))
            nearest = nearest_codes(residual, codebook)
            self.usage[level] = torch.bincount(nearest, minlength=len(codebook)).float()
            residual = residual - codebook[nearest]
        # A batch sees fewer vectors than there are here: the averages start at one vector for each code, in proportion.
        self.usage *= self.usage.shape[1] / len(vectors)

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """`[N, dim]` -> int64 indices `[N, R]`."""
        residual = self.project_in(vectors)
        indices = []
        for codebook in self.codebooks:
            indices.append(nearest_codes(residual, codebook))
            residual = residual - codebook[indices[-1]]
        return torch.stack(indices, dim=-1)

    def latent(self, indices: Tensor) -> Tensor:
        """int64 `[N, r]`, the first `r` levels -> their sum in the projected space, `[N, code_dim]`."""
        return torch.stack([self.codebooks[level][column] for level, column in enumerate(indices.unbind(-1))]).sum(0)

    def decode(self, indices: Tensor) -> Tensor:
        """int64 `[N, r]`, the first `r` of R levels -> `[N, dim]`."""
        return self.project_out(self.latent(indices))

    def forward(self, vectors: Tensor, generator: torch.Generator, keep: Tensor | None = None) -> Quantised:
        """Quantise `[N, dim]`. In training mode levels are dropped and the codebooks move, both as `generator` decides.

        Args:
            keep: int64 `[N]`, how many levels each vector keeps, instead of those that `generator` drops.
        """
        levels = len(self.codebooks)
        if keep is None:
            keep = torch.full((len(vectors),), levels)
            if self.training:
                dropped = torch.rand(len(vectors), generator=generator) < self.dropout
                keep[dropped] = torch.randint(1, levels + 1, (int(dropped.sum()),), generator=generator)
        projected = self.project_in(vectors)
        total = torch.zeros_like(projected)
        commitment = projected.new_zeros(())
        indices = []
        for level in range(levels):
            active = (keep > level).to(projected.device)
            residual = projected - total
            nearest = nearest_codes(residual.detach(), self.codebooks[level])
            codes = self.codebooks[level][nearest]
            if active.any():
                commitment = commitment + F.mse_loss(residual[active], codes[active])
            if self.training and active.any():
                self._follow(level, residual[active].detach(), nearest[active], generator)
            total = total + codes * active[:, None]
            indices.append(nearest)
        straight_through = projected + (total - projected).detach()
        return Quantised(self.project_out(straight_through), torch.stack(indices, dim=-1), commitment)

    @torch.no_grad()
    def _follow(self, level: int, vectors: Tensor, nearest: Tensor, generator: torch.Generator) -> None:
        """Move one codebook towards the mean of the `[n, code_dim]` vectors each code took, and revive its dead codes."""
        codebook, usage = self.codebooks[level], self.usage[level]
        count = torch.bincount(nearest, minlength=len(codebook)).to(vectors.dtype)
        sums = torch.zeros_like(codebook).index_add_(0, nearest, vectors)
        new_usage = self.decay * usage + (1 - self.decay) * count
        # The average of sums over the average of counts, written on the codebook itself so that no sums need keeping.
        moved = (self.decay * usage[:, None] * codebook + (1 - self.decay) * sums) / new_usage[:, None]
        codebook.copy_(torch.where(new_usage[:, None] > 0, moved, codebook))
        usage.copy_(new_usage)
        dead = torch.nonzero(usage < self.revive_below * usage.mean()).flatten()[: len(vectors)]
        if len(dead):
            chosen = torch.randperm(len(vectors), generator=generator)[: len(dead)].to(vectors.device)
            codebook[dead] = vectors[chosen]
            usage[dead] = usage.mean()


@torch.no_grad()
def k_means(vectors: Tensor, k: int, generator: torch.Generator, iterations: int = 20) -> Tensor:
    """Lloyd's algorithm: `[N, d]` -> centroids `[k, d]`. Starts at vectors drawn at random; an empty cluster takes a new one.

    Raises:
        ValueError: fewer vectors than centroids.
    """
    if len(vectors) < k:
        raise ValueError(f"k-means: {len(vectors)} vectors are too few for {k} centroids")
    centroids = vectors[torch.randperm(len(vectors), generator=generator)[:k].to(vectors.device)].clone()
    for _ in range(iterations):
        nearest = nearest_codes(vectors, centroids)
        count = torch.bincount(nearest, minlength=k)
        centroids = torch.zeros_like(centroids).index_add_(0, nearest, vectors) / count.clamp(min=1)[:, None]
        empty = torch.nonzero(count == 0).flatten()
        if len(empty):
            drawn = torch.randperm(len(vectors), generator=generator)[: len(empty)]
            centroids[empty] = vectors[drawn.to(vectors.device)]
    return centroids


def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """int64 `[N]`: the code nearest to each of `[N, d]` vectors in Euclidean distance."""
    # |v|² is the same for every code and left out.
    return (codebook.square().sum(-1) - 2 * vectors @ codebook.T).argmin(-1)
