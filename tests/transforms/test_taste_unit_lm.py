"""The full speech decoder at a tiny size: the order of what it reads and predicts, and that it can learn."""

from dataclasses import replace

import pytest
import torch

from transforms.taste.sizes import FULL_DECODER
from transforms.taste.unit_lm import IGNORE, RelativeLayers, Said, UnitLM, UnitLMShape

TINY = UnitLMShape(
    n_units=20, n_tokens=50, latent_dim=12, speaker_dim=6, dim_in=16, dim=32, heads=4, hidden=48, text_layers=1,
    code_layers=1, layers=2, dropout=0.0,
)  # fmt: skip


@pytest.fixture
def lm() -> UnitLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UnitLM(TINY).eval()


def said(n: int, m: int, seed: int = 0) -> Said:
    draw = torch.Generator().manual_seed(seed)
    return Said(
        torch.randint(50, (n,), generator=draw),
        torch.randn(n, 12, generator=draw),
        torch.randn(6, generator=draw),
        torch.randint(20, (m,), generator=draw),
    )


def test_the_sizes_are_cosyvoices() -> None:
    with torch.device("meta"):
        full = UnitLM(FULL_DECODER)
    assert [len(part.layers) for part in (full.text_encoder, full.code_encoder, full.lm)] == [3, 2, 7]
    assert full.text_encoder.enter.weight.shape == (1024, 512)
    assert full.out.weight.shape == (4097, 1024)
    assert full.speaker_in.weight.shape == (1024, 192)
    assert full.fusion.shape == (2,)


def test_what_is_read_and_what_is_predicted_stand_in_the_papers_order(lm) -> None:
    one, two = said(3, 4), said(2, 1, seed=1)
    inputs, targets, valid = lm.sequences([one, two])
    assert inputs.shape == (2, 3 + 3 + 4, 32)
    u = one.units.tolist()
    assert targets[0].tolist() == [IGNORE] * (2 + 3) + [*u, 20]
    assert targets[1].tolist() == [IGNORE] * (2 + 2) + [int(two.units[0]), 20] + [IGNORE] * 4
    assert valid.sum(1).tolist() == [10, 6]
    assert torch.equal(inputs[0, 0], lm.marks.weight[0])
    assert torch.equal(inputs[0, 5], lm.marks.weight[1])
    torch.testing.assert_close(inputs[0, 6:], lm.unit_embedding(one.units))
    louder = lm.sequences([one._replace(speaker=7 * one.speaker)]).inputs
    torch.testing.assert_close(louder[0], inputs[0])
    assert lm(lm.sequences([one, two])).shape == (2, 10, 21)


def test_text_and_codes_start_out_alike_and_the_fusion_is_a_softmax(lm) -> None:
    one = said(3, 0)
    valid = torch.ones(1, 3, dtype=torch.bool)
    text = lm.text_encoder(lm.token_embedding(one.ids[None]), valid)
    codes = lm.code_encoder(lm.latent_in(one.latents[None]), valid)
    coded = torch.tensor([True])
    torch.testing.assert_close(lm.fuse(one.ids[None], one.latents[None], valid, coded), (text + codes) / 2)
    with torch.no_grad():
        lm.fusion.copy_(torch.tensor([30.0, -30.0]))
    torch.testing.assert_close(lm.fuse(one.ids[None], one.latents[None], valid, coded), text)


def test_what_has_no_codes_is_read_from_the_text_alone_beside_what_has(lm) -> None:
    coded, bare = said(3, 4), said(5, 2, seed=1)._replace(latents=None)
    together = lm.sequences([coded, bare]).inputs
    torch.testing.assert_close(together[0, :10], lm.sequences([coded]).inputs[0])
    torch.testing.assert_close(together[1, :10], lm.sequences([bare]).inputs[0])
    text = lm.text_encoder(lm.token_embedding(bare.ids[None]), torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(together[1, 2:7], text[0])


def test_no_unit_sees_a_later_one_and_padding_changes_nothing(lm) -> None:
    one, two = said(3, 6), said(7, 9, seed=1)
    alone, together = lm(lm.sequences([one])), lm(lm.sequences([one, two]))
    torch.testing.assert_close(alone[0], together[0, : alone.shape[1]], atol=1e-5, rtol=1e-4)
    changed = one.units.clone()
    changed[4] = (changed[4] + 1) % 20
    other = lm(lm.sequences([one._replace(units=changed)]))
    # Unit 4 stands at 3 + 3 + 4.
    torch.testing.assert_close(alone[0, :10], other[0, :10])
    assert not torch.allclose(alone[0, 10], other[0, 10])


def test_attention_tells_distances_apart() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = RelativeLayers(8, 16, 1, 2, 16, 0.0).eval()
    x, valid = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0)), torch.ones(1, 5, dtype=torch.bool)
    backwards = layers(x.flip(1), valid).flip(1)
    assert not torch.allclose(layers(x, valid), backwards, atol=1e-3)
    with torch.no_grad():
        layers.layers[0].distance.weight.zero_()
    torch.testing.assert_close(layers(x, valid), layers(x.flip(1), valid).flip(1))


def test_a_batch_is_learnt_by_heart_and_said_again(lm) -> None:
    batch = [said(3, 8), said(3, 8, seed=1)]
    batch[1] = batch[1]._replace(ids=batch[0].ids, speaker=batch[0].speaker)
    latents = [item.latents.clone().requires_grad_() for item in batch]
    optimizer = torch.optim.AdamW(lm.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        loss = lm.loss([item._replace(latents=z) for item, z in zip(batch, latents, strict=True)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 2.5
    assert losses[-1] < 0.1
    assert all(z.grad is not None and z.grad.abs().sum() > 0 for z in latents)
    # Same text and voice: only the codes tell the two apart.
    draw = torch.Generator().manual_seed(0)
    for item in batch:
        again = lm.sample(item._replace(units=item.units[:0]), draw, top_k=1)
        assert again.tolist() == item.units.tolist()


def test_lengths_are_held_between_the_limits(lm) -> None:
    empty = said(3, 0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        lm.out.bias[20] = 100.0
    assert len(lm.sample(empty, draw)) == 6
    with torch.no_grad():
        lm.out.bias[20] = -100.0
    assert len(lm.sample(empty, draw, at_most=4.0)) == 12


def test_a_foreign_unit_is_refused(lm) -> None:
    wrong = said(2, 3)._replace(units=torch.tensor([1, 20, 2]))
    with pytest.raises(ValueError, match=r"units 1..20; the decoder has 20"):
        lm.loss([wrong])
    assert float(UnitLM(replace(TINY, n_units=21)).loss([wrong]).detach()) > 0
