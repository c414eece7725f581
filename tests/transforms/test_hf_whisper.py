"""A Hugging Face Whisper in openai-whisper's code: the same numbers, or a refusal that names what is wrong."""

import json

import pytest
import torch

from tests.transforms import distil
from transforms.transcribe.hf_whisper import WrongWhisper, read_whisper


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return distil.write(tmp_path_factory.mktemp("distil") / "full")


def test_encoder_and_logits_are_transformers_own(folder, speech) -> None:
    from transformers import WhisperForConditionalGeneration
    from whisper.audio import log_mel_spectrogram, pad_or_trim

    ours, theirs = read_whisper(folder), WhisperForConditionalGeneration.from_pretrained(folder).eval()
    mel = log_mel_spectrogram(pad_or_trim(speech[0].samples, 480_000), 128)[None]
    ids = torch.tensor([[50258, 50259, 50360, 50364, 400, 3431]])
    with torch.no_grad():
        states = theirs.model.encoder(mel).last_hidden_state
        torch.testing.assert_close(ours.encoder(mel), states, atol=1e-3, rtol=1e-3)
        logits = theirs(input_features=mel, decoder_input_ids=ids).logits
        torch.testing.assert_close(ours.decoder(ids, states), logits, atol=1e-3, rtol=1e-3)
    assert ours.is_multilingual
    assert ours.num_languages == 100


def test_a_model_without_a_head_is_the_same_model(folder, tmp_path) -> None:
    bare = read_whisper(distil.write(tmp_path / "bare", bare=True)).state_dict()
    assert all(torch.equal(tensor, bare[name]) for name, tensor in read_whisper(folder).state_dict().items())


def test_reading_draws_nothing_from_the_generator(folder) -> None:
    before = torch.get_rng_state()
    read_whisper(folder)
    assert torch.equal(before, torch.get_rng_state())


def test_what_does_not_fit_is_named(folder, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())

    def again(tensors, **changed) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        save_file(tensors, tmp_path / "model.safetensors")
        read_whisper(tmp_path)

    name = "model.decoder.layers.1.encoder_attn.v_proj.weight"
    with pytest.raises(WrongWhisper, match=f"1 tensors are missing: {name}"):
        again({key: tensor for key, tensor in held.items() if key != name})
    with pytest.raises(WrongWhisper, match=rf"{name} has the shape \(64, 3\), by config.json \(64, 64\)"):
        again(held | {name: held[name][:, :3].contiguous()})
    with pytest.raises(WrongWhisper, match="encoder_ffn_dim 100; openai-whisper's is 4 x 64"):
        again(held, encoder_ffn_dim=100)
    with pytest.raises(WrongWhisper, match="model_type 'hubert', not 'whisper'"):
        again(held, model_type="hubert")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WrongWhisper, match=r"no \*\.safetensors and no pytorch_model"):
        read_whisper(tmp_path)
    with pytest.raises(WrongWhisper, match="no config of a Hugging Face model"):
        read_whisper(tmp_path / "absent")
