"""The published unit settings by name, each on a small random checkpoint in its encoder's format."""

from pathlib import Path

import joblib
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.config import ConfigError, load
from schemas import Block, Utterance
from tests.conftest import Clip
from transforms.units.presets import PRESETS
from transforms.units.stage import Units, UnitsOptions
from transforms.weights import MissingWeights

WIDTH = 24


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """Two HuBERT checkpoints of twelve small layers: 50 Hz, and 25 Hz with one more convolution, as the 25 Hz mHuBERT has."""
    import torch
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    made = {}
    for rate_hz, more in ((50.0, 0), (25.0, 1)):
        folder = tmp_path_factory.mktemp(f"hubert{rate_hz:g}")
        torch.manual_seed(int(rate_hz))
        config = HubertConfig(
            hidden_size=WIDTH,
            num_hidden_layers=12,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(8,) * (7 + more),
            conv_kernel=(10, 3, 3, 3, 3, 2, 2) + (2,) * more,
            conv_stride=(5, 2, 2, 2, 2, 2, 2) + (2,) * more,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
        HubertModel(config).save_pretrained(folder)
        # As the conversions on the hub say, and as fairseq did not do.
        Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
        made[rate_hz] = folder
    return made


def foreign(path: Path, k: int) -> Path:
    """A k-means file as textlesslib publishes them, by scikit-learn and joblib."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(2, n_init=1, random_state=0).fit(np.zeros((2, WIDTH), np.float32))
    model.cluster_centers_ = np.random.default_rng(k).normal(size=(k, WIDTH))
    joblib.dump(model, path)
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_from_the_foreign_file_to_the_units(
    name: str, encoders: dict[float, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, speech: list[Clip]
) -> None:
    monkeypatch.setenv("ANTIPHON_CACHE", str(tmp_path))
    preset = PRESETS[name]
    folder = str(encoders[preset.rate_hz])
    file = foreign(tmp_path / "km.bin", preset.k)
    assert main(["convert", str(file), "--preset", name, "--model", folder]) == 0
    assert f"{preset.k} centroids of {WIDTH} dimensions" in capsys.readouterr().out
    settings = load(None, [f"units.preset={name}", f"units.model={folder}"]).units
    assert settings is not None
    stage = Units(settings)
    stage.setup()
    card = stage.tokenizer()
    assert (card.name, card.rate_hz, card.sizes) == (name, preset.rate_hz, (preset.k,))
    block = Block(0, 16000, utterances=[Utterance("a", -1, 0, 20000, speech[0].samples[:20000], 16000)])
    made = stage(block).utterances[0]
    assert made.unit_run_lengths is not None
    assert made.unit_run_lengths.sum() == card.n_frames(20000) == (20000 - card.trim) // (16000 // preset.rate_hz)
    assert stage._encoder.layer == preset.layer
    assert stage._encoder.normalized is False


def test_without_its_centroids_a_preset_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"fetch https://.*/km100/km\.bin .* `antiphon convert km\.bin --preset"):
        Units(UnitsOptions(preset="hubert-base-ls960-l6-km100")).setup()


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["units.preset=hubert"], "no preset of units is called 'hubert'; there are hubert-base-ls960-l6-km50,"),
        (["units.preset=hubert-base-ls960-l6-km50", "units.layer=9"], "has layer 6, and 9 is given"),
        (["units.preset=mhubert-base-8lang-l12-km2000"], "name a folder as `model`"),
    ],
)
def test_what_a_preset_cannot_be_is_a_mistake_of_the_config(assignments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(None, assignments)


def test_what_does_not_fit_the_preset_or_the_encoder_is_refused(
    encoders: dict[float, Path], tmp_path: Path, capsys
) -> None:
    name, folder, out = "hubert-base-ls960-l6-km50", str(encoders[50.0]), str(tmp_path / "o.safetensors")
    file = str(foreign(tmp_path / "km.bin", 40))
    assert main(["convert", file, "--preset", name, "--model", folder, "--out", out]) == 2
    assert "40 centroids; preset hubert-base-ls960-l6-km50 has 50" in capsys.readouterr().err
    np.save(tmp_path / "narrow.npy", np.zeros((50, WIDTH - 1), np.float32))
    narrow = str(tmp_path / "narrow.npy")
    assert main(["convert", narrow, "--preset", name, "--model", folder, "--out", out]) == 2
    assert f"centroids of {WIDTH - 1} dimensions" in capsys.readouterr().err
    assert main(["convert", file, "--out", out]) == 2
    assert "name a --preset" in capsys.readouterr().err
    assert main(["convert", file, "--model", folder, "--layer", "3", "--out", out]) == 0
    # Another normalisation than the centroids were converted for.
    from transforms.units.quantizer import WrongQuantizer

    wrong = UnitsOptions(backend="transformers", model=folder, layer=3, quantizer=out, normalize=False)
    with pytest.raises(WrongQuantizer, match="fitted with normalize true"):
        Units(wrong).setup()


def test_all_settings_are_listed(capsys) -> None:
    assert main(["tokenizers"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PRESETS)
    assert "facebook/encodec_24khz" in listed
