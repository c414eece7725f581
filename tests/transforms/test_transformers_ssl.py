"""HuBERT and kin through transformers, on small random checkpoints in the real format."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import UserError
from transforms.units.transformers_ssl import TransformersEncoder, frame_rule, normalize

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.fixture(scope="module", params=["hubert-group", "wavlm-layer", "wav2vec2-layer"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers

    kind, _, norm = request.param.partition("-")
    classes = {"hubert": "Hubert", "wavlm": "WavLM", "wav2vec2": "Wav2Vec2"}
    config = getattr(transformers, f"{classes[kind]}Config")(
        **SMALL, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer"
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    getattr(transformers, f"{classes[kind]}Model")(config).save_pretrained(path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=norm == "layer").save_pretrained(path)
    return path


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.05, 0.1, n).astype(np.float32)


def test_features_do_not_depend_on_the_batch(folder: Path) -> None:
    encoder = TransformersEncoder(str(folder), 2)
    batch = [noise(4000, 1), noise(9000, 2), noise(4000, 3), noise(8999, 4)]
    for together, samples in zip(encoder.features(batch), batch, strict=True):
        np.testing.assert_allclose(together, encoder.features([samples])[0], atol=2e-5)


@pytest.mark.parametrize("n", [0, 1, 399, 400, 401, 719, 720, 721, 16000])
def test_the_frame_rule_holds(folder: Path, n: int) -> None:
    encoder = TransformersEncoder(str(folder), 1)
    assert (encoder.hop, encoder.trim, encoder.sample_rate_hz) == (320, 80, 16000)
    assert encoder.features([noise(n)])[0].shape == (max(0, (n - 80) // 320), 32)


def test_the_layer_is_counted_from_one(folder: Path) -> None:
    """Layer 3 of 3, through the final norm where there is one, is the model's last hidden state; the others differ from it."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    samples = noise(5000)
    given = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=16000, return_tensors="pt").input_values
    network = AutoModel.from_pretrained(folder).eval()
    layers = [TransformersEncoder(str(folder), layer).features([samples])[0] for layer in (1, 2, 3)]
    with torch.no_grad():
        top = torch.from_numpy(layers[2])
        top = network.encoder.layer_norm(top) if network.config.do_stable_layer_norm else top
        np.testing.assert_allclose(top.numpy(), network(given).last_hidden_state[0].numpy(), atol=1e-4)
    assert np.abs(layers[0] - layers[1]).max() > 1e-2
    assert np.abs(layers[1] - layers[2]).max() > 1e-2


def test_a_layer_the_model_lacks_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"units.layer is 4; .* has layers 1 to 3"):
        TransformersEncoder(str(folder), 4)


def test_a_model_that_reads_no_waveform_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="bert model, which does not read raw waveforms"):
        TransformersEncoder(str(tmp_path), 1)


def test_frame_rule_of_known_stacks() -> None:
    assert frame_rule((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)) == (320, 80)
    assert frame_rule((4,), (4,)) == (4, 0)


def test_normalized_waveforms_have_no_mean_and_unit_variance() -> None:
    made = normalize(7 * noise(1000))
    assert abs(made.mean()) < 1e-5
    assert abs(made.std() - 1) < 1e-3


def test_only_models_that_padding_leaves_alone_are_padded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded under a mask, group norm gives other features; layer norm the same. So each kind runs as many batches as it must."""
    encoder = TransformersEncoder(str(folder), 2)
    batch = [noise(9000, 1), noise(5000, 2), noise(9000, 3)]
    sizes = []
    run = encoder._run
    monkeypatch.setattr(encoder, "_run", lambda given: sizes.append(len(given)) or run(given))
    encoder.features(batch)
    padded = run(batch[:2])[1]
    away = np.abs(padded - run([batch[1]])[0]).max()
    if "group" in folder.name:
        assert sizes == [2, 1]
        assert away > 1e-2
    else:
        assert sizes == [3]
        assert away < 2e-5


def test_data2vec_is_not_padded(tmp_path: Path) -> None:
    """Its positional convolutions are several, and the second one hears what the first made of the padding."""
    import torch
    from transformers import Data2VecAudioConfig, Data2VecAudioModel

    torch.manual_seed(0)
    Data2VecAudioModel(Data2VecAudioConfig(**SMALL, num_conv_pos_embeddings_groups=2)).save_pretrained(tmp_path)
    encoder = TransformersEncoder(str(tmp_path), 2)
    batch = [noise(9000, 1), noise(5000, 2)]
    for together, samples in zip(encoder.features(batch), batch, strict=True):
        np.testing.assert_allclose(together, encoder.features([samples])[0], atol=2e-5)


def test_normalisation_can_be_set_against_the_checkpoint(folder: Path) -> None:
    samples = noise(6000) + 0.3
    own, raw, normalized = (TransformersEncoder(str(folder), 2, given) for given in (None, False, True))
    assert own.normalized is ("layer" in folder.name)
    same = normalized if own.normalized else raw
    np.testing.assert_array_equal(own.features([samples])[0], same.features([samples])[0])
    if "layer" in folder.name:
        # Of group norm, scale and mean are gone after the first convolution anyway.
        assert np.abs(raw.features([samples])[0] - normalized.features([samples])[0]).max() > 1e-2
