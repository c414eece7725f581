"""Residual quantisation of pairs of vectors, in which each code says what the codes around it do not.

Neighbouring vectors of speech say much twice, and a residual quantiser that codes them one by one pays for it twice. Here a codec
frame is a pair of vectors, and its codebooks take turns: the first codes the first half of each pair by itself, the second the
second half. From the third on a small convolution first guesses the half in turn from all that is decoded so far of the vectors
around, and the codebook codes what that leaves. Second halves know more of their neighbours by then, so the same bits bring them
nearer.

All frames of a codebook are coded at once and nothing is carried along the sequence, so a wrong code is heard some frames around
it and no further; and the first k codebooks never depend on the later ones. A half between two that are known is coded as video
coders do with B frames; a codebook of what the ones before foretell is a simple case of QINCo's (arXiv 2401.14732).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transforms.taste.rvq import Quantised, ResidualVQ, nearest_codes

_KERNEL = 7
"""Vectors that a guess reads: its own and three on either side."""


class Guess(nn.Module):
    """What is missing in one half of each pair of `[B, 2 T, d]`: `[B, T, d]`."""

    def __init__(self, dim: int, width: int, half: int) -> None:
        super().__init__()
        self.half = half
        self.linear = nn.Conv1d(dim, dim, _KERNEL, stride=2)
        self.enter = nn.Conv1d(dim, width, _KERNEL, stride=2)
        self.middle = nn.Conv1d(width, width, 1)
        self.leave = nn.Conv1d(width, dim, 1)
        # It starts as a plain residual quantiser, whose guess is what is decoded.
        for layer in (self.linear, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, decoded: Tensor) -> Tensor:
        x = F.pad(decoded.transpose(1, 2), (_KERNEL // 2 - self.half, _KERNEL // 2))
        hidden = F.gelu(self.middle(F.gelu(self.enter(x))))
        return (self.linear(x) + self.leave(hidden)).transpose(1, 2)


class RefinedVQ(ResidualVQ):
    """K codebooks, an even number, of sequences of pairs `[B, 2 T, dim]`: codes `[B, T, K]`.

    Attributes:
        codebooks: `[K - 1, size, code_dim]`. The first serves both halves, so that a code of it means the same in either.
    """

    def __init__(self, dim: int, *, levels: int, size: int, code_dim: int, width: int) -> None:
        """Args: levels: K. width: of the guesses' hidden layers. Raises ValueError for an odd K."""
        if levels % 2:
            raise ValueError(f"{levels} codebooks for pairs of vectors; an even number is needed")
        super().__init__(dim, levels=levels - 1, size=size, code_dim=code_dim)
        self.guesses = nn.ModuleList(Guess(code_dim, width, turn % 2) for turn in range(2, levels))

    @property
    def sizes(self) -> tuple[int, ...]:
        n_codebooks, size, _ = self.codebooks.shape
        return (size,) * (n_codebooks + 1)

    def codebook(self, turn: int) -> Tensor:
        """`[size, code_dim]`, that of the `turn`th of K codes of a frame."""
        return self.codebooks[max(0, turn - 1)]

    @property
    def parts(self) -> list[Tensor]:
        """Of each code of a pair what it stands for in both halves, one after the other: `[size, 2 code_dim]`."""
        width = self.codebooks.shape[-1]
        sides = [(width, 0) if turn % 2 else (0, width) for turn in range(len(self.sizes))]
        return [F.pad(self.codebook(turn), side) for turn, side in enumerate(sides)]

    @torch.no_grad()
    def initialise(self, vectors: Tensor, generator: torch.Generator, iterations: int = 20) -> None:
        """As a residual quantiser of single vectors `[N, dim]`; both halves begin with the same codes."""
        _, size, code_dim = self.codebooks.shape
        plain = ResidualVQ(vectors.shape[-1], levels=len(self.sizes) // 2, size=size, code_dim=code_dim)
        plain.initialise(vectors, generator, iterations)
        self.project_in.load_state_dict(plain.project_in.state_dict())
        self.project_out.load_state_dict(plain.project_out.state_dict())
        for i in range(len(self.codebooks)):
            self.codebooks[i] = plain.codebooks[(i + 1) // 2]
            self.usage[i] = plain.usage[(i + 1) // 2]

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """`[B, 2 T, dim]` -> int64 `[B, T, K]`."""
        wanted = self.project_in(vectors)
        decoded = torch.zeros_like(wanted)
        indices = []
        for turn in range(len(self.sizes)):
            guess = self._guess(turn, decoded)
            indices.append(nearest_codes(_half(wanted, turn) - guess, self.codebook(turn)))
            decoded = _put(decoded, turn, guess + self.codebook(turn)[indices[-1]])
        return torch.stack(indices, dim=-1)

    def latent(self, indices: Tensor) -> Tensor:
        """int64 `[B, T, k]`, the first k of K codes -> `[B, 2 T, code_dim]`. Of one code alone, both halves are what it says."""
        n_batch, n_frames, n_kept = indices.shape
        decoded = self.codebooks.new_zeros(n_batch, 2 * n_frames, self.codebooks.shape[-1])
        for turn in range(n_kept):
            decoded = _put(decoded, turn, self._guess(turn, decoded) + self.codebook(turn)[indices[..., turn]])
        return _put(decoded, 1, _half(decoded, 0)) if n_kept == 1 else decoded

    def first(self, indices: Tensor) -> Tensor:
        """int64 `[B, T, K]` -> `[B, 2 T, code_dim]`: what the first code of each half says by itself."""
        return self.codebooks[0][indices[..., :2]].flatten(1, 2)

    def forward(self, vectors: Tensor, generator: torch.Generator, keep: Tensor | None = None) -> Quantised:
        """As that of `ResidualVQ`, of `[B, 2 T, dim]`; the commitment has in it how far the guesses were from the vectors.

        Args:
            keep: int64 `[B]`, how many codes of a frame each sequence keeps.
        """
        keep = torch.full((len(vectors),), len(self.sizes)) if keep is None else keep
        projected = self.project_in(vectors)
        decoded = torch.zeros_like(projected)
        commitment = projected.new_zeros(())
        indices = []
        for turn in range(len(self.sizes)):
            active = keep > turn
            guess = self._guess(turn, decoded)
            residual = _half(projected, turn) - guess.detach()
            indices.append(nearest_codes(residual.detach(), self.codebook(turn)))
            codes = self.codebook(turn)[indices[-1]]
            # The first code of either half is always followed: the teacher hears both.
            told = active | (turn < 2)
            if told.any():
                commitment = commitment + F.mse_loss(residual[told], codes[told]) / 2
                if turn >= 2:
                    commitment = commitment + F.mse_loss(guess[told], _half(projected, turn)[told].detach()) / 2
                if self.training:
                    given = residual[told].detach().flatten(0, 1), indices[-1][told].flatten()
                    self._follow(max(0, turn - 1), *given, generator)
            # Where it is dropped, what stands there stays; and before anything does, the other half.
            stays = _half(decoded, 0) if turn == 1 else _half(decoded, turn)
            decoded = _put(decoded, turn, torch.where(active[:, None, None], guess.detach() + codes, stays))
        straight_through = projected + (decoded - projected).detach()
        return Quantised(self.project_out(straight_through), torch.stack(indices, dim=-1), commitment)

    def _guess(self, turn: int, decoded: Tensor) -> Tensor:
        """What is foretold of the half in turn, `[B, T, code_dim]`: of the first two codes nothing."""
        half = _half(decoded, turn)
        return half + self.guesses[turn - 2](decoded) if turn >= 2 else torch.zeros_like(half)


def _half(vectors: Tensor, turn: int) -> Tensor:
    """Of pairs `[B, 2 T, d]` the halves in turn, `[B, T, d]`."""
    return vectors[:, turn % 2 :: 2]


def _put(vectors: Tensor, turn: int, half: Tensor) -> Tensor:
    """`[B, 2 T, d]` with other halves. A copy: what a guess was made from is needed for its gradient."""
    vectors = vectors.clone()
    vectors[:, turn % 2 :: 2] = half
    return vectors
