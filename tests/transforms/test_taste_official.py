"""A checkpoint in the published layout, with random weights: the same codes, or a refusal that names each tensor."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas import Block
from tests.transforms import distil
from tests.transforms.test_taste import utterance
from transforms.taste.model import WrongTokenizer
from transforms.taste.official import Prefixes, find_prefixes, read_official
from transforms.taste.stage import Taste, TasteOptions
from transforms.whisper_model import load_whisper

TOWER = "audio_tower."
ENCODER, DECODER, RVQ = f"{TOWER}encoder.", f"{TOWER}audio_segmenter.decoder.", f"{TOWER}vq.rvq."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return distil.write(tmp_path_factory.mktemp("distil") / "base")


@pytest.fixture(scope="module")
def published(folder) -> dict[str, torch.Tensor]:
    """Every trained tensor is moved, so that none that is not read goes unnoticed."""
    held = load_file(folder / "model.safetensors")
    draw = torch.Generator().manual_seed(1)
    tensors = {}
    for name, tensor in held.items():
        part = name.removeprefix("model.")
        if part.startswith("encoder."):
            tensors[ENCODER + part.removeprefix("encoder.")] = tensor
        elif part.startswith("decoder."):
            tensors[DECODER + part.removeprefix("decoder.")] = tensor + 0.05 * torch.randn(tensor.shape, generator=draw)
    for name, shape in {"project_in": (32, 64), "project_out": (64, 32)}.items():
        tensors[f"{RVQ}{name}.weight"] = torch.randn(shape, generator=draw)
        tensors[f"{RVQ}{name}.bias"] = torch.randn(shape[:1], generator=draw)
    for level in range(4):
        book = f"{RVQ}layers.{level}._codebook."
        tensors[f"{book}embed"] = torch.randn((1, 24, 32), generator=draw) * 4 / (level + 1)
        tensors[f"{book}embed_avg"] = torch.zeros(1, 24, 32)
        tensors[f"{book}cluster_size"], tensors[f"{book}initted"] = torch.zeros(1, 24), torch.tensor(True)
    tensors["spoken_lm.model.layers.0.self_attn.q_proj.weight"] = torch.zeros(3, 3)
    return tensors


def saved(tensors, path):
    save_file(tensors, path)
    return path


def by_transformers(folder, published, samples, text, model) -> np.ndarray:
    """Codes without our network: transformers' decoder layer by layer, residual search spelt out."""
    from transformers import WhisperModel
    from whisper.audio import log_mel_spectrogram, pad_or_trim

    theirs = WhisperModel.from_pretrained(folder).eval()
    theirs.decoder.load_state_dict({n.removeprefix(DECODER): t for n, t in published.items() if n.startswith(DECODER)})
    tokens = model.tokenize(text)
    ids = torch.tensor([[50258, 50259, 50360, 50364, *tokens.ids.tolist(), 50257]])
    mel = log_mel_spectrogram(pad_or_trim(samples, 480_000), 128)[None]
    with torch.no_grad():
        states = theirs.encoder(mel, output_hidden_states=True)
        keys, values = states.last_hidden_state, states.hidden_states[6]
        decoder = theirs.decoder
        x = decoder.embed_tokens(ids) + decoder.embed_positions.weight[: ids.shape[1]]
        hidden = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)
        for layer in decoder.layers:

            def attend(a, query, key, value, mask=None):
                q, k, v = (
                    y.unflatten(-1, (4, 16)).transpose(1, 2) for y in (a.q_proj(query), a.k_proj(key), a.v_proj(value))
                )
                weights = q @ k.transpose(-1, -2) / 4.0
                weights = (weights if mask is None else weights + mask).softmax(-1)
                return a.out_proj((weights @ v).transpose(1, 2).flatten(2))

            n = layer.self_attn_layer_norm(x)
            x = x + attend(layer.self_attn, n, n, n, hidden)
            x = x + attend(layer.encoder_attn, layer.encoder_attn_layer_norm(x), keys, values)
            x = x + layer.fc2(torch.nn.functional.gelu(layer.fc1(layer.final_layer_norm(x))))
        z = decoder.layer_norm(x)[0, 4:-1]
        words = torch.stack([z[torch.from_numpy(tokens.word_ids == w)].mean(0) for w in range(len(tokens.words))])
        rest = words @ published[f"{RVQ}project_in.weight"].T + published[f"{RVQ}project_in.bias"]
        found = []
        for level in range(4):
            book = published[f"{RVQ}layers.{level}._codebook.embed"][0]
            found.append(torch.cdist(rest, book).argmin(-1))
            rest = rest - book[found[-1]]
    return torch.stack(found, -1).numpy()


def test_a_checkpoint_in_the_layout_gives_its_own_codes(folder, published, speech, tmp_path) -> None:
    path = saved(published, tmp_path / "taste.safetensors")
    model = read_official(path, load_whisper(str(folder)))
    for clip in speech[:2]:
        codes = model.codes(clip.samples, clip.text, "en")
        theirs = by_transformers(folder, published, clip.samples, clip.text, model)
        # A vector half-way between two entries may fall to either side in float32.
        assert (codes == theirs).mean() > 0.99
        assert len({tuple(word) for word in codes}) > 5


def test_the_encoder_may_be_in_the_checkpoint_or_the_recognisers(folder, published, speech, tmp_path) -> None:
    whisper, clip = load_whisper(str(folder)), speech[0]
    whole = read_official(saved(published, tmp_path / "whole.safetensors"), whisper)
    (tmp_path / "parts").mkdir()
    without = {name: tensor for name, tensor in published.items() if not name.startswith(ENCODER)}
    half = len(without) // 2
    for number, names in enumerate((list(without)[:half], list(without)[half:])):
        save_file({name: without[name] for name in names}, tmp_path / "parts" / f"model-{number}.safetensors")
    parts = read_official(tmp_path / "parts", whisper)
    assert np.array_equal(whole.codes(clip.samples, clip.text, "en"), parts.codes(clip.samples, clip.text, "en"))
    moved = {n: t + 0.5 if n == f"{ENCODER}layer_norm.bias" else t for n, t in published.items()}
    other = read_official(saved(moved, tmp_path / "moved.safetensors"), whisper)
    assert not torch.equal(other.states(clip.samples).keys, whole.states(clip.samples).keys)
    assert torch.equal(load_whisper(str(folder)).encoder.ln_post.bias, whisper.encoder.ln_post.bias)


def test_prefixes_are_found_or_given(folder, published, tmp_path) -> None:
    assert find_prefixes(published) == Prefixes(ENCODER, DECODER, RVQ)
    twice = published | {f"teacher.{name}": tensor.clone() for name, tensor in published.items()}
    path = saved(twice, tmp_path / "twice.safetensors")
    with pytest.raises(WrongTokenizer, match=r"the encoder is what has conv1.weight and .* there are 2 such: 'audio_"):
        read_official(path, load_whisper(str(folder)))
    read_official(path, load_whisper(str(folder)), prefixes=Prefixes(ENCODER, DECODER, RVQ))


def test_what_does_not_fit_is_named(folder, published, tmp_path) -> None:
    whisper = load_whisper(str(folder))

    def read(tensors):
        return read_official(saved(tensors, tmp_path / "broken.safetensors"), whisper)

    gone = f"{DECODER}layers.1.fc1.bias"
    with pytest.raises(WrongTokenizer, match=rf"broken.safetensors: missing {gone} \(256,\)"):
        read({name: tensor for name, tensor in published.items() if name != gone})
    with pytest.raises(WrongTokenizer, match=rf"unexpected {RVQ}layers.0.extra \(2,\)"):
        read(published | {f"{RVQ}layers.0.extra": torch.zeros(2)})
    with pytest.raises(WrongTokenizer, match=rf"{ENCODER}conv1.bias has the shape \(3,\), expected \(64,\)"):
        read(published | {f"{ENCODER}conv1.bias": torch.zeros(3)})
    with pytest.raises(WrongTokenizer, match=rf"{RVQ}layers.2._codebook.embed has the shape \(1, 9, 32\)"):
        read(published | {f"{RVQ}layers.2._codebook.embed": torch.zeros(1, 9, 32)})
    with pytest.raises(WrongTokenizer, match=r"the quantiser is what has .* there are 0 such"):
        read({name: tensor for name, tensor in published.items() if not name.startswith(RVQ)})
    (tmp_path / "text.safetensors").write_text("none")
    with pytest.raises(WrongTokenizer, match="not a safetensors file"):
        read_official(tmp_path / "text.safetensors", whisper)


def test_the_stage_reads_it_and_its_card_stands_for_both_weights(folder, published, speech, tmp_path) -> None:
    path = saved(published, tmp_path / "taste.safetensors")
    stage = Taste(TasteOptions(model=str(path), recogniser=str(folder), layout="official"))
    stage.setup()
    block = stage(Block(0, 16000, utterances=[utterance(speech[0])]))
    assert block.utterances[0].taste_codes.shape == (len(speech[0].text.split()), 4)
    card = block.tokenizers["taste"]
    assert card.sizes == (24,) * 4
    assert card.revision not in stage.weights().values()
