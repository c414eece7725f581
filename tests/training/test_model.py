"""The hybrid LM: what a loss is made of, that documents do not see each other, and that saving keeps everything."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.errors import UserError
from tests.training.conftest import CARDS
from training.layouts import CodecLayoutOptions, LayoutOptions, TasteLayoutOptions, make
from training.layouts.base import IGNORE
from training.loader import Loader
from training.losses import StreamLosses
from training.model import HybridLM, load_trunk
from training.options import TrainOptions
from training.packing import Batch, collate, pack
from training.reader import Corpus
from training.text import Text, load_text
from transforms.weights import MissingWeights, locate

LAYOUTS = [TasteLayoutOptions(), CodecLayoutOptions(first_codebook_weight=100.0)]


@pytest.fixture(scope="module")
def text(trunk: Path) -> Text:
    return load_text(trunk)


@pytest.fixture
def build(trunk: Path, text: Text, write_corpus: Callable[..., Path]) -> Callable[..., tuple[HybridLM, Batch, Loader]]:
    """A model, its heads no longer zero, and a batch of four rows of a corpus in one packed sequence."""

    def make_one(layout_options: LayoutOptions, **options: object) -> tuple[HybridLM, Batch, Loader]:
        path = write_corpus(n_train=4, n_heldout=0)
        layout = make(layout_options, text.vocabulary, CARDS)
        loader = Loader([Corpus(path)], layout, text, TrainOptions(**options))
        model = HybridLM(load_trunk(trunk, 2), layout.rows, 0.5, 0.5)
        for parameter in (*model.text_kind_head.parameters(), *model.speech_head.parameters()):
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(1))
        laid = list(loader._sequences(loader._shards, "train"))
        n = sum(len(s.inputs) for s in laid)
        return model, collate(pack(laid, n), n), loader

    return make_one


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda o: o.name)
@torch.no_grad()
def test_loss_is_the_weighted_mean_of_both_groups(
    build: Callable[..., tuple[HybridLM, Batch, Loader]], layout: LayoutOptions
) -> None:
    """By hand, from log-probabilities of each label."""
    model, batch, _ = build(layout)
    loss, streams = model.loss(batch)
    mask = torch.from_numpy(batch.documents[:, None, :, None] == batch.documents[:, None, None, :]).tril()
    hidden = model.hidden(
        torch.from_numpy(batch.inputs),
        attention_mask=torch.zeros(mask.shape).masked_fill(~mask, -1e30),
        position_ids=torch.from_numpy(batch.positions),
    )[0]
    scores = [model.text_log_probs(hidden), *(logits.log_softmax(-1) for logits in model.speech_logits(hidden))]
    groups: list[list[tuple[float, float]]] = [[], []]
    for r, log_probs in enumerate(scores):
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(hidden)))
        for position in np.flatnonzero(batch.labels[0, :, r] != IGNORE):
            nll = -float(log_probs[position, batch.labels[0, position, r]])
            groups[min(r, 1)].append((nll, float(batch.weights[0, position, r])))
    text, speech = (sum(nll * w for nll, w in group) / sum(w for _, w in group) for group in groups)
    assert float(loss) == pytest.approx(0.5 * text + 0.5 * speech, rel=1e-4)
    assert set(streams.means()) == {"text", "pad", *(row.name for row in model.rows[1:])}
    assert streams.count["pad"] == len(groups[0])
    assert streams.count["text"] == sum(1 for label in batch.labels[0, :, 0] if 0 <= label < model.vocab_size)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda o: o.name)
def test_packed_documents_do_not_see_each_other(
    build: Callable[..., tuple[HybridLM, Batch, Loader]], layout: LayoutOptions
) -> None:
    """The losses of four rows packed together are those of the four alone."""
    model, packed, loader = build(layout)
    alone = StreamLosses()
    with torch.no_grad():
        _, together = model.loss(packed)
        for sequence in loader._sequences(loader._shards, "train"):
            n = len(sequence.inputs)
            alone.update(model.loss(collate(pack([sequence], n + 3), n + 3))[1])
    assert alone.count == together.count
    for stream, total in together.total.items():
        assert total == pytest.approx(alone.total[stream], rel=1e-4)


def test_no_position_sees_a_later_one(build: Callable[..., tuple[HybridLM, Batch, Loader]]) -> None:
    model, batch, _ = build(CodecLayoutOptions())
    ids = torch.from_numpy(batch.inputs[:, :30])
    changed = ids.clone()
    changed[0, 20, :] = torch.tensor([3, 1, 1, 1])
    with torch.no_grad():
        a, b = model.hidden(ids), model.hidden(changed)
    torch.testing.assert_close(a[:, :20], b[:, :20])
    assert not torch.allclose(a[:, 20:], b[:, 20:])


def test_added_embeddings_have_the_trunks_statistics(trunk: Path, text: Text) -> None:
    model = HybridLM(load_trunk(trunk), make(CodecLayoutOptions(), text.vocabulary, CARDS).rows, 0.5, 0.5)
    table = model.trunk.get_input_embeddings().weight
    assert float(model.speech.weight.std() * math.sqrt(3)) == pytest.approx(float(table.std()), rel=0.15)
    # Three rows together are as large as one text token.
    summed = model.embed(torch.tensor([[[-1, 4, 5, 6]]])).norm()
    assert float(summed) == pytest.approx(float(table.norm(dim=-1).mean()), rel=0.4)
    assert float(model.embed(torch.full((1, 1, 4), -1)).norm()) == 0


@torch.no_grad()
@pytest.mark.parametrize("times", [1, 30])
def test_what_is_added_predicts_uniformly_at_first(
    build: Callable[..., tuple[HybridLM, Batch, Loader]], trunk: Path, times: int
) -> None:
    """However large the trunk's hidden states are."""
    _, batch, loader = build(CodecLayoutOptions())
    whole = load_trunk(trunk, 2)
    whole.get_decoder().norm.weight *= times
    means = HybridLM(whole, loader.layout.rows, 0.5, 0.5).loss(batch)[1].means()
    assert means["pad"] == pytest.approx(math.log(5))
    for row in loader.layout.rows[1:]:
        assert means[row.name] == pytest.approx(math.log(row.n_ids))


def test_layers_are_cut_from_the_end(trunk: Path) -> None:
    whole, cut = load_trunk(trunk), load_trunk(trunk, 2)
    assert len(cut.get_decoder().layers) == 2
    kept = dict(cut.named_parameters())
    assert all(torch.equal(p, whole.state_dict()[name]) for name, p in kept.items())
    with pytest.raises(UserError, match=r"3 layers, and train.trunk_layers asks for 4"):
        load_trunk(trunk, 4)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no causal LM"):
        load_trunk(tmp_path)
    with pytest.raises(UserError, match="no causal LM"):
        load_text(tmp_path)


def test_words_are_encoded_alone_and_come_back(text: Text, sentences: list[str]) -> None:
    words = sentences[0].split()
    ids = text.encode(words)
    assert text.decode(ids) == words
    assert text.vocabulary.split(token for word in ids for token in word) == ids
    assert text.encode([words[0]])[0] == ids[0]


def test_the_default_trunk(sentences: list[str], write_corpus: Callable[..., Path]) -> None:
    """SmolLM2-135M: words come back from its tokenizer, and its first layer learns from a row."""
    try:
        folder = locate("smollm2-135m-instruct").path
    except MissingWeights as error:
        pytest.skip(str(error))
    text = load_text(folder)
    for sentence in sentences[:100]:
        words = sentence.split()
        ids = text.encode(words)
        assert text.decode(ids) == words
        assert text.vocabulary.split(token for word in ids for token in word) == ids
    layout = make(CodecLayoutOptions(), text.vocabulary, CARDS)
    model = HybridLM(load_trunk(folder, 1), layout.rows, 0.5, 0.5)
    row = next(Corpus(write_corpus(n_train=1, n_heldout=0)).rows())
    batch = collate(pack([layout.apply(layout.example(row, text.encode))], 64), 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss, _ = model.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda o: o.name)
@torch.no_grad()
def test_losses_of_labels_are_their_negative_log_probabilities(
    build: Callable[..., tuple[HybridLM, Batch, Loader]], layout: LayoutOptions
) -> None:
    model, batch, _ = build(layout)
    found = model.label_losses(batch)
    hidden = model.batch_hidden(batch)
    scores = [model.text_log_probs(hidden), *(logits.log_softmax(-1) for logits in model.speech_logits(hidden))]
    labels = torch.from_numpy(batch.labels)
    assert torch.equal(found.learnt, labels != IGNORE)
    for r, log_probs in enumerate(scores):
        expected = -log_probs.gather(-1, labels[..., r, None].clamp(min=0))[..., 0] * found.learnt[..., r]
        torch.testing.assert_close(found.losses[..., r], expected, rtol=1e-4, atol=1e-4)
    summed = found.by_document(torch.from_numpy(batch.documents))
    assert summed.shape == (1, 4, len(model.rows))
    torch.testing.assert_close(summed.sum(1), found.losses.sum(1), rtol=1e-4, atol=1e-3)
    first = torch.from_numpy(batch.documents[0] == 0)
    torch.testing.assert_close(summed[0, 0], found.losses[0, first].sum(0), rtol=1e-4, atol=1e-3)
