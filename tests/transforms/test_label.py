"""Classifier labels on small random checkpoints in the real format: a waveform model with group norm, and a spectrogram model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import Block, Utterance
from schemas.errors import UserError
from transforms.label import Label, LabelOptions, Network, parts
from transforms.weights import MissingWeights

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
NAMES = {0: "calm", 1: "angry", 2: "sad"}


def save(kind: str, folder: Path, **config: Any) -> Path:
    torch.manual_seed(0)
    if kind == "wav2vec2":
        conv = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
        settings = transformers.Wav2Vec2Config(**SMALL, **conv, id2label=NAMES, **config)
        transformers.Wav2Vec2ForSequenceClassification(settings).save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    else:
        settings = transformers.ASTConfig(**SMALL, max_length=128, id2label=NAMES, **config)
        transformers.ASTForAudioClassification(settings).save_pretrained(folder)
        transformers.ASTFeatureExtractor(max_length=128).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["wav2vec2", "ast"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp(request.param))


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1 * (seed + 1), n).astype(np.float32)


def test_probabilities_are_the_models_own_and_not_the_batchs(folder: Path) -> None:
    network = Network(str(folder), 2)
    batch = [noise(9000, 1), noise(16000, 2), noise(9000, 3), noise(12001, 4), noise(9000, 5)]
    together = network.probabilities(batch, 10.0)
    classify = transformers.pipeline("audio-classification", model=str(folder), device="cpu")
    for samples, p in zip(batch, together, strict=True):
        np.testing.assert_allclose(p, network.probabilities([samples], 10.0)[0], atol=1e-5)
        own = {line["label"]: line["score"] for line in classify(samples, top_k=None)}
        assert dict(zip(network.labels, p, strict=True)) == pytest.approx(own, abs=1e-5)
        assert p.sum() == pytest.approx(1, abs=1e-5)


def test_a_long_utterance_is_the_mean_of_its_parts(folder: Path) -> None:
    network = Network(str(folder), 4)
    a, b = noise(16000, 1), noise(16000, 2)
    whole = network.probabilities([np.concatenate([a, b])], 1.0)[0]
    np.testing.assert_allclose(whole, np.mean(network.probabilities([a, b], 1.0), axis=0), atol=1e-5)


def test_the_stage_writes_each_classifiers_labels_in_order(folder: Path, tmp_path: Path) -> None:
    several = save("wav2vec2", tmp_path / "several", problem_type="multi_label_classification")
    models = ({"name": "mood", "model": str(folder), "top": 2}, {"name": "sound", "model": str(several), "top": 3})
    stage = Label(LabelOptions.model_validate({"models": models}))
    stage.setup()
    block = Block(0, 16000, samples_in=36000)
    block.utterances = [
        Utterance("a", -1, 0, 32000, noise(32000), 16000),
        Utterance("b", -1, 0, 4000, noise(4000), 16000),
    ]
    done = stage(block)
    done.check_conserved()
    for utterance in done.utterances:
        assert [x.name for x in utterance.labels] == ["mood"] * 2 + ["sound"] * 3
        mood, sound = utterance.labels[:2], utterance.labels[2:]
        assert 1 >= mood[0].score >= mood[1].score > 0
        # Labels that do not exclude each other have a probability each.
        assert sum(x.score for x in sound) != pytest.approx(1, abs=1e-3)
        assert {x.label for x in sound} == set(NAMES.values())
    assert set(stage.weights()) == {str(folder), str(several)}


@given(st.integers(0, 3000), st.integers(100, 1000))
def test_parts_are_of_one_length_and_hold_every_sample(n: int, longest: int) -> None:
    samples = np.arange(1, n + 1)
    found = parts(samples, longest, 50)
    assert len({len(part) for part in found}) == 1
    assert 50 <= len(found[0]) <= longest
    assert set(np.concatenate(found)) - {0} == set(samples)


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    """A headless checkpoint would get a random head, and one of another kind none at all."""
    headless = tmp_path / "headless"
    conv = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SMALL, **conv)).save_pretrained(headless)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(headless)
    with pytest.raises(UserError, match=r"no audio classifier: its file has no classifier.bias"):
        Network(str(headless), 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio classifier"):
        Network(str(tmp_path / "empty"), 1)
    with pytest.raises(MissingWeights, match="nowhere"):
        Network("nowhere", 1)


def test_two_classifiers_of_one_name_are_refused() -> None:
    models = [{"name": "mood", "model": "a"}, {"name": "mood", "model": "b"}]
    with pytest.raises(ValidationError, match="two classifiers have one name: mood, mood"):
        LabelOptions.model_validate({"models": models})
