"""The quantiser that foretells vectors from their neighbours: its codes, what they cost, and how far each of them reaches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.codec.latents import rvq_latents
from transforms.codec.network import MelCodecNetwork
from transforms.codec.refined import Guess, RefinedVQ
from transforms.taste.rvq import ResidualVQ

K = 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(seed: int = 0) -> RefinedVQ:
    """Of random weights, so that each guess matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        quantiser = RefinedVQ(12, levels=K, size=16, code_dim=6, width=8)
        for parameter in quantiser.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        quantiser.codebooks.normal_()
    return quantiser.eval()


def walks(n: int, n_vectors: int, seed: int) -> torch.Tensor:
    """Smooth sequences `[n, n_vectors, 12]`, whose vectors say much of each other, as speech's do."""
    steps = torch.randn(n, n_vectors + 8, 12, generator=seeded(seed))
    return steps.unfold(1, 9, 1).mean(-1) * 3


@settings(max_examples=40, deadline=None)
@given(n_frames=st.integers(1, 20), kept=st.integers(1, K), seed=st.integers(0, 1000))
def test_codes_are_of_pairs_and_of_one_sequence_alone(n_frames: int, kept: int, seed: int) -> None:
    quantiser, vectors = made(), torch.randn(2, 2 * n_frames, 12, generator=seeded(seed))
    codes = quantiser.encode(vectors)
    assert codes.shape == (2, n_frames, K)
    assert quantiser.sizes == (16,) * K
    assert codes.max() < 16
    torch.testing.assert_close(quantiser.encode(vectors[1:]), codes[1:])
    decoded = quantiser.decode(codes[..., :kept])
    assert decoded.shape == vectors.shape
    if kept <= 2:
        # The first codes of the halves say what they say without the others; one alone stands for both.
        said = quantiser.first(codes if kept == 2 else codes[..., :1].expand_as(codes))
        torch.testing.assert_close(decoded, quantiser.project_out(said))


@settings(max_examples=20, deadline=None)
@given(n_frames=st.integers(1, 10), seed=st.integers(0, 1000))
def test_the_pass_of_a_fit_agrees_with_encode_and_decode(n_frames: int, seed: int) -> None:
    quantiser, vectors = made(), torch.randn(K, 2 * n_frames, 12, generator=seeded(seed))
    keep = torch.arange(1, K + 1)
    out = quantiser(vectors, seeded(), keep)
    codes = quantiser.encode(vectors)
    for sequence, k in enumerate(keep.tolist()):
        torch.testing.assert_close(out.indices[sequence, :, :k], codes[sequence, :, :k])
        whole = quantiser.decode(codes[sequence : sequence + 1, :, :k])[0]
        torch.testing.assert_close(out.vectors[sequence], whole, atol=1e-4, rtol=1e-4)


def test_a_code_reaches_some_frames_and_no_further() -> None:
    """Three vectors in each of the four turns that guess, and its own pair: seven frames."""
    quantiser = made()
    codes = quantiser.encode(torch.randn(1, 80, 12, generator=seeded()))
    for turn in range(K):
        other = codes.clone()
        other[0, 20, turn] = (other[0, 20, turn] + 1) % 16
        changed = (quantiser.decode(other) - quantiser.decode(codes)).abs().amax(-1)[0].unflatten(0, (-1, 2)) > 1e-6
        assert changed[20].any()
        assert not changed[: 20 - 7].any()
        assert not changed[20 + 8 :].any()


def test_a_piece_has_the_codes_of_the_whole() -> None:
    quantiser, vectors = made(), torch.randn(1, 120, 12, generator=seeded())
    whole = quantiser.encode(vectors)
    piece = quantiser.encode(vectors[:, 20:100])
    torch.testing.assert_close(piece[:, 7:-7], whole[:, 17:43])


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("n_frames", [1, 2, 5])
def test_guesses_are_of_one_half_of_each_pair(half: int, n_frames: int) -> None:
    guess = Guess(4, 8, half)
    decoded = torch.randn(2, 2 * n_frames, 4)
    assert guess(decoded).shape == (2, n_frames, 4)
    # Of no weight at first, so that a fit begins as a residual quantiser of single vectors.
    assert not guess(decoded).any()


def test_vectors_foretold_are_nearer_for_the_same_codes() -> None:
    """Fitted a little on sequences that say much twice, against the quantiser that codes each vector by itself."""
    errors = {}
    for name in ("plain", "refined"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            refined = RefinedVQ(12, levels=K, size=16, code_dim=12, width=16)
        quantiser = refined if name == "refined" else ResidualVQ(12, levels=K // 2, size=16, code_dim=12)
        quantiser.initialise(walks(40, 32, seed=0).flatten(0, 1), seeded())
        optimizer = torch.optim.Adam(refined.guesses.parameters(), 5e-3)
        quantiser.train()
        for step in range(150):
            vectors = walks(16, 32, seed=step + 1)
            if name == "refined":
                out = quantiser(vectors, seeded(step), torch.full((16,), K))
                optimizer.zero_grad()
                out.commitment.backward()
                optimizer.step()
            else:
                quantiser(vectors.flatten(0, 1), seeded(step), torch.full((16 * 32,), K // 2))
        unseen = walks(40, 32, seed=1000)
        errors[name] = float((quantiser.decode(quantiser.encode(unseen)) - unseen).square().mean())
    assert errors["refined"] < 0.7 * errors["plain"]


def test_a_network_of_pairs_gives_their_latents_as_frames() -> None:
    torch.manual_seed(0)
    network = MelCodecNetwork(channels=16, levels=4, size=32, code_dim=4, guess_width=8).eval()
    network.quantiser.codebooks.normal_()
    log_mel = torch.randn(80, 20)
    codes, latents = network.encode_both(log_mel)
    torch.testing.assert_close(codes, network.encode(log_mel))
    assert network.hop == 1024
    assert codes.shape == (4, 5)
    assert latents.shape == (5, 8)
    assert network.first(codes).shape == (10, 16)
    with torch.no_grad():
        whole, _ = network.unquantised(network.latent(log_mel[None]))
        torch.testing.assert_close(network.decode_latents(latents), network.restore(whole)[0])
    # Latents that are the codes' own vectors sound as the codes do.
    said = network.quantiser.latent(codes.T[None]).reshape(5, 8)
    torch.testing.assert_close(network.decode_latents(said), network.decode(codes))
    assert rvq_latents(network.levels).dim == 8


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="guess_width 8 and content_blocks 1"):
        MelCodecNetwork(content_blocks=1, guess_width=8)
    with pytest.raises(ValueError, match="3 codebooks for pairs"):
        MelCodecNetwork(levels=3, guess_width=8)
