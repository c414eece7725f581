"""The residual quantiser: what it loses falls with its levels, and its codebooks go where the vectors are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.taste.rvq import ResidualVQ, k_means


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(n: int = 600, dim: int = 16) -> torch.Tensor:
    """Vectors around 12 centres."""
    centres = 4 * torch.randn(12, dim, generator=seeded(1))
    return centres[torch.arange(n) % 12] + torch.randn(n, dim, generator=seeded(2))


def quantiser(dim: int = 16, **settings: float) -> ResidualVQ:
    """A quantiser initialised on `clouds()`, whose projections lose nothing: what is lost is the codebooks' doing."""
    rvq = ResidualVQ(dim, levels=4, size=24, code_dim=dim, **settings)
    rvq.initialise(clouds(), seeded())
    return rvq


def test_initialised_projections_keep_the_principal_axes_and_scale_to_unit_variance() -> None:
    flat = clouds() * torch.cat([torch.ones(4), torch.full((12,), 1e-3)]) + 5.0
    rvq = ResidualVQ(16, levels=1, size=2, code_dim=4)
    rvq.initialise(flat, seeded())
    projected = rvq.project_in(flat)
    torch.testing.assert_close(rvq.project_out(projected), flat, atol=0.02, rtol=0)
    assert float(projected.square().mean()) == pytest.approx(1.0, abs=0.01)


def test_error_falls_with_every_level() -> None:
    rvq, vectors = quantiser(), clouds()
    indices = rvq.encode(vectors)
    errors = [float((rvq.decode(indices[:, :r]) - vectors).square().mean()) for r in range(1, 5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.2 * float(vectors.var())
    assert errors[3] < 0.6 * errors[0]


def test_indices_are_in_range_and_the_forward_pass_agrees_with_encode_and_decode() -> None:
    rvq, vectors = quantiser().eval(), clouds(50)
    indices = rvq.encode(vectors)
    out = rvq(vectors, seeded())
    assert indices.shape == (50, 4)
    assert 0 <= int(indices.min()) <= int(indices.max()) < 24
    assert torch.equal(out.indices, indices)
    torch.testing.assert_close(out.vectors, rvq.decode(indices))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_a_vector_keeps_its_code_whatever_its_company(n: int, seed: int) -> None:
    rvq = quantiser()
    vectors = torch.randn(n, 16, generator=seeded(seed))
    alone = torch.cat([rvq.encode(v[None]) for v in vectors])
    assert torch.equal(rvq.encode(vectors), alone)


def test_evaluation_leaves_the_codebooks_alone_and_training_moves_them_to_the_data() -> None:
    rvq = quantiser(decay=0.5, dropout=0.0)
    before = rvq.codebooks.clone()
    moved = clouds() + 1.0
    rvq.eval()(moved, seeded())
    assert torch.equal(rvq.codebooks, before)
    rvq.train()
    distance = float(rvq(moved, seeded()).commitment.detach())
    for _ in range(20):
        rvq(moved, seeded())
    assert not torch.equal(rvq.codebooks, before)
    assert float(rvq(moved, seeded()).commitment.detach()) < 0.8 * distance


def test_one_training_pass_moves_a_code_by_the_decay() -> None:
    rvq = ResidualVQ(2, levels=1, size=1, code_dim=2, decay=0.9, dropout=0.0).train()
    torch.nn.init.eye_(rvq.project_in.weight)
    torch.nn.init.zeros_(rvq.project_in.bias)
    rvq(torch.tensor([[10.0, 20.0]]), seeded())
    torch.testing.assert_close(rvq.codebooks[0, 0], torch.tensor([1.0, 2.0]))


def test_gradients_pass_straight_through() -> None:
    rvq = quantiser().eval()
    vectors = clouds(8).requires_grad_()
    rvq(vectors, seeded()).vectors.sum().backward()
    torch.testing.assert_close(vectors.grad, torch.ones_like(vectors))


def test_dropout_makes_a_prefix_of_the_levels_stand_for_the_rest() -> None:
    rvq, vectors = quantiser(dropout=1.0), clouds()
    dropped = rvq.train()(vectors, seeded()).vectors
    whole = quantiser(dropout=1.0).decode(rvq.encode(vectors))
    by_levels = torch.stack([quantiser().decode(quantiser().encode(vectors)[:, :r]) for r in range(1, 5)])
    nearest = (by_levels - dropped).square().sum(-1).argmin(0)
    assert set(nearest.tolist()) == {0, 1, 2, 3}
    assert not torch.allclose(dropped, whole, atol=0.1)


def test_dead_codes_come_back_to_life() -> None:
    rvq = quantiser(decay=0.5, dropout=0.0).train()
    rvq.codebooks[0, :12] = 1e3
    far = rvq.codebooks[0].abs().amax(-1) > 100
    assert int(far.sum()) == 12
    for seed in range(30):
        rvq(clouds(), seeded(seed))
    assert not bool((rvq.codebooks[0].abs().amax(-1) > 100).any())


def test_the_same_seed_gives_the_same_training_pass() -> None:
    first, second = quantiser().train(), quantiser().train()
    for rvq in (first, second):
        generator = seeded(3)
        for _ in range(3):
            rvq(clouds(), generator)
    assert torch.equal(first.codebooks, second.codebooks)


def test_k_means_finds_the_clouds_and_wants_enough_vectors() -> None:
    vectors = clouds()
    centroids = k_means(vectors, 24, seeded())
    assert float(torch.cdist(vectors, centroids).amin(1).square().mean()) < 1.5 * 16
    with pytest.raises(ValueError, match="600 vectors are too few for 601"):
        k_means(vectors, 601, seeded())
