"""Full size from the same code: the paper's numbers on a tiny checkpoint in distil-whisper's format, from fit to stage."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from schemas import Block
from tests.transforms import distil
from tests.transforms.test_taste import N_UNITS, options, utterance
from transforms.taste.fit import fit_taste
from transforms.taste.model import TasteTokenizer, WrongTokenizer, read_card
from transforms.taste.options import FitTasteOptions
from transforms.taste.sizes import FULL_DECODER, TOKENIZER, fit_preset
from transforms.taste.speech import load_decoder
from transforms.taste.stage import Taste, TasteOptions
from transforms.taste.unit_lm import UnitLM, UnitLMShape
from transforms.weights.find import hash_path
from transforms.whisper_model import encoder_pass, load_whisper


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return distil.write(tmp_path_factory.mktemp("distil") / "full")


@pytest.fixture(scope="module")
def model(folder) -> TasteTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TasteTokenizer(load_whisper(str(folder)), **TOKENIZER["full"]).eval()
    torch.nn.init.normal_(made.quantiser.codebooks, generator=torch.Generator().manual_seed(0))
    return made


def test_the_numbers_are_the_papers(model, folder) -> None:
    assert model.quantiser.codebooks.shape == (4, 512, 256)
    assert (model.value_layer, len(model.aggregator.blocks)) == (6, 2)
    assert model.prefix("en").tolist() == [50258, 50259, 50360, 50364]
    whisper = load_whisper(str(folder))
    for mine, theirs in zip(model.aggregator.blocks, whisper.decoder.blocks, strict=True):
        assert torch.equal(mine.cross_attn.value.weight, torch.eye(64))
        assert not mine.cross_attn.value.bias.any()
        assert torch.equal(mine.cross_attn.query.weight, theirs.cross_attn.query.weight)
    assert not any(name.startswith("encoder") for name in model.fitted())
    options = FitTasteOptions(folder="x", data="x", **fit_preset("full"))
    assert (options.value_layer, options.code_dim, options.decay, options.batch) == (6, 256, 0.99, 256)
    assert (options.decoder, options.n_units) == ("unit_lm", FULL_DECODER.n_units)
    assert FitTasteOptions(folder="x", data="x", **fit_preset("compact")) == FitTasteOptions(folder="x", data="x")
    assert (FULL_DECODER.n_units, FULL_DECODER.dim, FULL_DECODER.layers) == (4096, 1024, 7)
    with pytest.raises(ValueError, match="'huge' is no size of TASTE; there are compact and full"):
        fit_preset("huge")


def test_keys_are_the_last_layer_normed_and_values_the_sixth_of_a_padded_window(model, folder, speech) -> None:
    from transformers import WhisperModel
    from whisper.audio import log_mel_spectrogram, pad_or_trim

    theirs = WhisperModel.from_pretrained(folder).eval()
    keys, values = model.states(speech[0].samples)
    assert keys.shape == values.shape == (1500, 64)
    mel = log_mel_spectrogram(pad_or_trim(speech[0].samples, 480_000), 128)[None]
    with torch.no_grad():
        states = theirs.encoder(mel, output_hidden_states=True)
    torch.testing.assert_close(keys, states.last_hidden_state[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(values, states.hidden_states[6][0], atol=1e-3, rtol=1e-3)


def test_one_tuple_for_each_word_of_real_speech(model, speech) -> None:
    codes = [model.codes(clip.samples, clip.text, "en") for clip in speech[:3]]
    for clip, found in zip(speech, codes, strict=False):
        assert found.shape == (len(clip.text.split()), 4)
        assert found.dtype == np.int16
        assert 0 <= found.min() <= found.max() < 512
    assert len({tuple(word) for found in codes for word in found}) > 5
    said_by_another = model.codes(speech[1].samples, speech[0].text, "en")
    assert (said_by_another != codes[0]).any()


def test_an_end_of_text_behind_the_words_changes_no_word(model, speech) -> None:
    keys, values = model.states(speech[0].samples)
    heard, ids = torch.ones(1, len(keys), dtype=torch.bool), torch.tensor([[400, 3431, 300, 50257]])
    with torch.no_grad():
        with_end = model.aggregator(model.prefix("en"), ids, keys[None], values[None], heard)
        without = model.aggregator(model.prefix("en"), ids[:, :-1], keys[None], values[None], heard)
    assert with_end.shape == (1, 4, 64)
    torch.testing.assert_close(with_end[:, :3], without, atol=1e-5, rtol=1e-5)


def test_a_fit_of_a_few_steps_end_to_end(folder, speech, tmp_path) -> None:
    whisper = load_whisper(str(folder))
    utterances = [utterance(clip) for clip in speech]
    for u in utterances:
        # Every frame a unit, by the size of its state: what is learnt does not matter here.
        loud = encoder_pass(whisper.encoder).layers(u.samples, [1])[0].norm(dim=-1)
        u.units = (loud.argsort().argsort() * N_UNITS // len(loud)).numpy()
        u.unit_run_lengths = np.ones(len(u.units), dtype=np.int64)
        u.given = {"speaker": u.source}
    tiny = {"dim_in": 16, "dim": 32, "heads": 2, "hidden": 32, "layers": 2, "text_layers": 1, "code_layers": 1}
    small = {"size": 16, "code_dim": 32, "levels": 4, "batch": 2, "recogniser": str(folder), "n_units": N_UNITS}
    small |= {"unit_lm": tiny, "learning_rate": 3e-3}
    steps = {"steps_text": 6, "steps_plain": 6, "steps_quantised": 8, "steps_settle": 1, "log_every": 1}
    said: list[str] = []
    path = fit_taste(utterances, options(tmp_path, **(fit_preset("full") | small | steps)), said.append)
    losses = [float(line.split("loss ")[1].split()[0]) for line in said if " loss " in line]
    assert sum(losses[-5:]) < sum(losses[:5])
    figures = read_card(path)["figures"]
    assert "lengths" not in figures["quantised"]
    assert figures["quantised"]["loss"] != figures["text"]["loss"]
    with pytest.raises(WrongTokenizer, match="the paper's unit LM, whose units nothing here turns into sound"):
        load_decoder(tmp_path / "antiphon-taste-decoder.safetensors", hash_path(path))
    decoder = read_card(tmp_path / "antiphon-taste-decoder.safetensors")["decoder"]
    lm = UnitLM(UnitLMShape(**decoder))
    with safe_open(tmp_path / "antiphon-taste-decoder.safetensors", "pt") as file:
        lm.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    stage = Taste(TasteOptions(model=str(path), recogniser=str(folder), latents=True))
    stage.setup()
    block = stage(Block(0, 16000, utterances=[utterance(clip) for clip in speech[:2]]))
    assert not block.rejections
    books = stage._model.quantiser.codebooks
    for u in block.utterances:
        assert u.taste_codes.shape == (len(u.words), 4)
        assert u.taste_codes.max() < 16
        assert u.taste_latents.shape == (len(u.words), 32)
        assert u.taste_latents.dtype == np.float16
        first = sum(books[level][code] for level, code in enumerate(u.taste_codes[0]))
        np.testing.assert_array_equal(u.taste_latents[0], first.half().numpy())


def test_latents_are_stored_only_where_they_are_asked_for(speech) -> None:
    made = {}
    for latents in (False, True):
        stage = Taste(TasteOptions(latents=latents))
        stage.setup()
        made[latents] = stage(Block(0, 16000, utterances=[utterance(speech[0]), utterance(speech[0], "")])).utterances
    assert made[False][0].taste_latents is None
    assert made[True][0].taste_latents.shape == (len(speech[0].text.split()), 128)
    assert made[True][1].taste_latents.shape == (0, 128)
    assert np.array_equal(made[False][0].taste_codes, made[True][0].taste_codes)
