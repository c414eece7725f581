"""Converters: against the reference weights, and against small models written in the source's own format."""

import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from training.text import Text
from transforms.weights import MissingWeights, locate
from transforms.weights.convert import hifigan, ljspeech_sample, llama2c, resemblyzer, smollm2_gguf, whisper_ggml


def needs(name: str) -> Path:
    try:
        return locate(name).path
    except MissingWeights as error:
        pytest.skip(str(error))


def write_ggml(path: Path, checkpoint: dict[str, Any]) -> None:
    """As whisper.cpp's own converter writes it: one-dimensional tensors in float32, the others in float16."""
    with path.open("wb") as file:
        file.write(struct.pack("<12i", 0x67676D6C, *(checkpoint["dims"][name] for name in whisper_ggml._DIMS), 1))
        file.write(struct.pack("<2i", 2, 3) + bytes(4 * 2 * 3))
        file.write(struct.pack("<i", 2) + struct.pack("<i", 5) + b"hello" + struct.pack("<i", 0))
        for name, tensor in checkpoint["model_state_dict"].items():
            values = tensor.numpy()
            if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
                values = values.reshape(-1, 1)
            small = values.ndim < 2 or values.shape[-1] == 1
            header = struct.pack("<3i", values.ndim, len(name), 0 if small else 1)
            file.write(header + struct.pack(f"<{values.ndim}i", *values.shape[::-1]) + name.encode())
            file.write(values.astype("<f4" if small else "<f2").tobytes())


def same_checkpoint(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["dims"] == b["dims"]
    assert a["model_state_dict"].keys() == b["model_state_dict"].keys()
    for name, tensor in a["model_state_dict"].items():
        other = b["model_state_dict"][name]
        assert tensor.dtype == other.dtype, name
        assert torch.equal(tensor, other), name


def test_whisper_through_ggml_is_the_same_tensor_for_tensor(shared: Path, tmp_path: Path) -> None:
    reference = torch.load(shared / "models/whisper-tiny.pt", weights_only=True)
    write_ggml(tmp_path / "ggml-tiny.bin", reference)
    whisper_ggml.convert(tmp_path, tmp_path / "made.pt")
    same_checkpoint(torch.load(tmp_path / "made.pt", weights_only=True), reference)


def test_the_pulled_whisper_is_the_reference(shared: Path) -> None:
    pulled = Path("~/.cache/antiphon/whisper-tiny.pt").expanduser()
    if not pulled.is_file():
        pytest.skip("needs `antiphon pull whisper-tiny` into the cache folder")
    reference = torch.load(shared / "models/whisper-tiny.pt", weights_only=True)
    same_checkpoint(torch.load(pulled, weights_only=True), reference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"\x00" + data[1:], "starts with 0x"),
        (lambda data: data[:-7], "ends 7 bytes early"),
        (
            lambda data: data.replace(struct.pack("<3i", 2, 3, 1), struct.pack("<3i", 2, 3, 8)),
            "tensor two is of type 8",
        ),
    ],
)
def test_a_damaged_ggml_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    state = {"one": torch.ones(4), "two": torch.ones(2, 3)}
    write_ggml(tmp_path / "w.bin", {"dims": dict.fromkeys(whisper_ggml._DIMS, 1), "model_state_dict": state})
    (tmp_path / "w.bin").write_bytes(change((tmp_path / "w.bin").read_bytes()))
    with pytest.raises(ValueError, match=message):
        whisper_ggml.read_ggml(tmp_path / "w.bin")


def llama_cpp_order(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """How convert_hf_to_gguf reorders the rows of a query or key projection."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, 2, rows // n_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def test_a_small_llama_through_gguf_gives_the_same_logits(tmp_path: Path) -> None:
    from gguf import GGUFWriter
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *bytes_to_unicode().values(), "he", "Ġhe"]
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rope_theta=100000.0, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16).float().eval()
    file = GGUFWriter(tmp_path / "model.gguf", "llama")
    file.add_block_count(2)
    file.add_context_length(64)
    file.add_embedding_length(32)
    file.add_feed_forward_length(48)
    file.add_head_count(4)
    file.add_head_count_kv(2)
    file.add_rope_freq_base(100000.0)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("smollm")
    file.add_token_list(tokens)
    file.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    file.add_token_merges(["h e", "Ġ he"])
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_unk_token_id(0)
    file.add_pad_token_id(2)
    file.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name == "lm_head.weight":
            continue
        gguf_name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(
            name
        )
        if gguf_name is None:
            layer, kind = name.split(".", 3)[2:]
            (short,) = [k for k, v in smollm2_gguf._NAMES.items() if f"{v}.weight" == kind]
            gguf_name = f"blk.{layer}.{short}.weight"
            if short in ("attn_q", "attn_k"):
                values = llama_cpp_order(values, 4 if short == "attn_q" else 2)
        file.add_tensor(gguf_name, np.ascontiguousarray(values))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()

    smollm2_gguf.convert(tmp_path, tmp_path / "made")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "made", local_files_only=True, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made", local_files_only=True)
    ids = tokenizer("he said: he is 12", return_tensors="pt").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[0])[-4:] == ["s", "Ġ", "1", "2"]
    assert tokenizer.decode(ids[0]) == "he said: he is 12"
    assert tokenizer.apply_chat_template([{"content": "he"}], tokenize=False) == "<|im_start|>he<|im_end|>"
    with torch.no_grad():
        torch.testing.assert_close(made(ids).logits, model(ids).logits)


def test_the_real_smollm2_knows_its_tokens_and_its_capitals() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = needs("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.tokenize("In 1984, people's") == ["In", "Ġ", "1", "9", "8", "4", ",", "Ġpeople", "'s"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt.startswith("<|im_start|>system\n")
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"


PIECES = ["▁a", "he", "▁he", "▁t", "▁the", "in", "ing", "▁▁", *"▁aeghint", "é"]


def write_tokens(pieces: list[str]) -> tuple[bytes, list[float]]:
    """tokenizer.bin of the special tokens, the bytes and `pieces`, whose scores fall from the first to the last."""
    tokens = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256))]
    tokens += [piece.replace("▁", " ").encode() for piece in pieces]
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces))]
    lines = (struct.pack("<fi", score, len(token)) + token for score, token in zip(scores, tokens, strict=True))
    return struct.pack("<i", max(map(len, tokens))) + b"".join(lines), scores


def write_llama2c(model: Any, own_head: bool) -> bytes:
    """As llama2.c writes a model: kinds of tensors in turn, each for all layers, with interleaved rotary pairs."""
    state, config = {name: tensor.numpy() for name, tensor in model.state_dict().items()}, model.config
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    order = [
        "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj",
    ]  # fmt: skip
    tensors = [state["model.embed_tokens.weight"]]
    for kind in order:
        for layer in range(config.num_hidden_layers):
            values = state[f"model.layers.{layer}.{kind}.weight"]
            tensors.append(llama_cpp_order(values, heads[kind]) if kind in heads else values)
    tensors += [state["model.norm.weight"], np.full(config.max_position_embeddings * config.head_dim, np.nan)]
    tensors += [state["lm_head.weight"]] if own_head else []
    sizes = (config.hidden_size, config.intermediate_size, config.num_hidden_layers, *heads.values())
    header = struct.pack("<7i", *sizes, config.vocab_size * (-1 if own_head else 1), config.max_position_embeddings)
    return header + b"".join(np.ascontiguousarray(values, "<f4").tobytes() for values in tensors)


@pytest.mark.parametrize("own_head", [False, True])
def test_a_small_llama_through_llama2c_gives_the_same_logits(own_head: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=259 + len(PIECES), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-5,
        tie_word_embeddings=not own_head,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    (tmp_path / "both.data").write_bytes(write_llama2c(model, own_head) + write_tokens(PIECES)[0])
    llama2c.convert(tmp_path, tmp_path / "made")
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "made", local_files_only=True, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made", local_files_only=True)
    ids = tokenizer("the thing Z", return_tensors="pt").input_ids
    tokens = ["<s>", "▁the", "▁t", "h", "ing", "▁", "<0x5A>"]
    assert tokenizer.convert_ids_to_tokens(ids[0]) == tokens
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "the thing Z"
    with torch.no_grad():
        torch.testing.assert_close(made(ids).logits, model(ids).logits)


def sentencepiece(text: str, pieces: dict[str, float]) -> list[str]:
    """SentencePiece's BPE as its paper has it: join the pair whose piece scores best, the first of equals, until none is left."""
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        joined = [(pieces.get(a + b, -np.inf), -i) for i, (a, b) in enumerate(itertools.pairwise(symbols))]
        if not joined or max(joined)[0] == -np.inf:
            break
        i = -max(joined)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    known = ((s,) if s in pieces else (f"<0x{byte:02X}>" for byte in s.encode()) for s in symbols)
    return list(itertools.chain.from_iterable(known))


@settings(deadline=None)
@example("the  thing")
@given(st.text(alphabet="aeghint Zé\n北", max_size=12))
def test_text_is_split_as_sentencepiece_splits_it(text: str) -> None:
    data, scores = write_tokens(PIECES)
    tokens, read = llama2c.read_tokens(data, len(scores))
    assert read == scores
    tokenizer = llama2c.make_tokenizer(tokens, scores, 64)
    expected = sentencepiece(text, dict(zip(tokens[259:], scores[259:], strict=True))) if text else []
    assert tokenizer.tokenize(text) == expected
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:20], "20 bytes are too few"),
        (lambda data: struct.pack("<i", 33) + data[4:], r"sizes \(33, 48, 2, 4, 2"),
        (lambda data: data[:100], "bytes early, in model.embed_tokens.weight"),
        (lambda data: data[:-3], "3 bytes early, in its rotations"),
    ],
)
def test_a_damaged_llama2c_model_is_refused(change: Any, message: str) -> None:
    sizes = struct.pack("<7i", 32, 48, 2, 4, 2, 10, 8)
    n_values = 10 * 32 + 2 * (32 * 2 + 32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 48) + 32 + 8 * 8
    data = sizes + bytes(4 * n_values)
    assert llama2c.read_model(data)[2] == len(data)
    with pytest.raises(ValueError, match=message):
        llama2c.read_model(change(data))


def test_a_damaged_llama2c_tokenizer_is_refused() -> None:
    data, scores = write_tokens(PIECES)
    with pytest.raises(ValueError, match=f"ends in token {len(scores) - 1} of"):
        llama2c.read_tokens(data[:-9], len(scores))
    with pytest.raises(ValueError, match="tokens take"):
        llama2c.read_tokens(data + b"more", len(scores))


@pytest.fixture(scope="module")
def stories() -> tuple[Any, Text]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = needs("stories15m")
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    return model, Text(AutoTokenizer.from_pretrained(folder, local_files_only=True), model.config.vocab_size)


def test_the_real_stories15m_tells_stories(stories: tuple[Any, Text]) -> None:
    model, tokenizer = stories[0], stories[1].tokenizer
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    told = tokenizer.decode(model.generate(ids, do_sample=False, max_new_tokens=21)[0], skip_special_tokens=True)
    assert told == "Once upon a time, there was a little girl named Lily. She loved to play outside in the sunshine."
    ids = tokenizer("One day, Tim went to the park with his mom. He saw a big red ball.", return_tensors="pt").input_ids
    with torch.no_grad():
        assert model(ids, labels=ids).loss.exp() < 4


@settings(deadline=None)
@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="▁"), min_size=1), min_size=1))
def test_the_real_stories15m_gives_any_words_back(stories: tuple[Any, Text], drawn: list[str]) -> None:
    text = stories[1]
    said = " ".join(drawn)
    assert text.tokenizer.decode(text.tokenizer.encode(said, add_special_tokens=False)) == said
    words = said.split()
    ids = text.encode(words)
    assert text.decode(ids) == words
    assert text.vocabulary.split(itertools.chain.from_iterable(ids)) == ids


def test_folding_weight_norm_leaves_the_layer_as_it_was() -> None:
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 5, 7))
    parts = {"g": layer.parametrizations.weight.original0, "v": layer.parametrizations.weight.original1}
    state = {"conv.bias": layer.bias, "conv.weight_g": parts["g"] * 3, "conv.weight_v": parts["v"]}
    folded = hifigan.fold_weight_norm(state)
    assert folded.keys() == {"conv.bias", "conv.weight"}
    torch.testing.assert_close(folded["conv.weight"], 3 * layer.weight)


def test_the_speaker_encoder_keeps_its_own_tensors_and_nothing_else(tmp_path: Path) -> None:
    lstm, linear = torch.nn.LSTM(40, 256, 3), torch.nn.Linear(256, 256)
    state = {f"lstm.{name}": w.detach() for name, w in lstm.state_dict().items()}
    state |= {f"linear.{name}": w.detach() for name, w in linear.state_dict().items()}
    extra = {"similarity_weight": torch.ones(1), "similarity_bias": torch.ones(1)}
    torch.save({"step": 1, "model_state": state | extra, "optimizer_state": {}}, tmp_path / "pretrained.pt")
    resemblyzer.convert(tmp_path, tmp_path / "made.safetensors")
    made = load_file(tmp_path / "made.safetensors")
    assert made.keys() == state.keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in state.items())
    del state["linear.bias"]
    torch.save({"model_state": state}, tmp_path / "pretrained.pt")
    with pytest.raises(KeyError, match=r"linear\.bias"):
        resemblyzer.convert(tmp_path, tmp_path / "made.safetensors")


def test_the_real_vocoder_gives_back_the_speech(shared: Path) -> None:
    from transformers import SpeechT5HifiGan
    from transformers.audio_utils import mel_filter_bank

    folder = needs("hifigan-universal")
    mel = json.loads((folder / "mel.json").read_text())
    line = json.loads((shared / "data/ljspeech.jsonl").read_text().splitlines()[0])
    samples, rate_hz = soundfile.read(shared / "data" / line["audio"], dtype="float32")
    assert rate_hz == mel["rate_hz"]
    n_bins = mel["n_fft"] // 2 + 1
    bank = torch.tensor(
        mel_filter_bank(n_bins, mel["n_mels"], mel["fmin_hz"], mel["fmax_hz"], rate_hz, "slaney", mel["mel_scale"])
    ).float()

    def log_mel(x: torch.Tensor) -> torch.Tensor:
        pad = (mel["n_fft"] - mel["hop_length"]) // 2
        x = torch.nn.functional.pad(x[None], (pad, pad), mode="reflect")[0]
        window = torch.hann_window(mel["win_length"])
        spectrum = torch.stft(x, mel["n_fft"], mel["hop_length"], window=window, center=False, return_complex=True)
        return (spectrum.abs().T @ bank).clamp(min=1e-5).log()

    given = log_mel(torch.from_numpy(samples[4000:12000]))
    model = SpeechT5HifiGan.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        spoken = model(given)
    assert len(spoken) == len(given) * mel["hop_length"]
    error = (log_mel(spoken) - given).abs().mean()
    assert error < 0.4  # 0.27 on whole sentences; a sentence shifted by 0.2 s against itself is at 1.7


def test_the_sample_becomes_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    for name in ("LJ2", "LJ1"):
        (tmp_path / "wavs" / f"{name}.wav").write_bytes(name.encode())
    (tmp_path / "metadata.csv").write_text('LJ1|In 1455.|In fourteen fifty-five.\nLJ2|Über "x"|Über\n')
    ljspeech_sample.convert(tmp_path, tmp_path / "made")
    lines = [json.loads(line) for line in (tmp_path / "made/manifest.jsonl").read_text().splitlines()]
    assert lines[0] == {"audio": "wavs/LJ1.wav", "id": "LJ1", "text": "In 1455.", "speaker": "LJ"}
    assert lines[1]["text"] == 'Über "x"'
    assert (tmp_path / "made/wavs/LJ2.wav").read_bytes() == b"LJ2"
    (tmp_path / "wavs/LJ3.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 sentences in metadata\.csv and 3 wavs"):
        ljspeech_sample.convert(tmp_path, tmp_path / "again")


def test_the_real_sample_is_speech_with_its_texts() -> None:
    folder = needs("ljspeech-sample")
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 32
    assert lines[1]["text"] == "in being comparatively modern."
    seconds = sum(soundfile.info(folder / line["audio"]).duration for line in lines)
    assert seconds == pytest.approx(222, abs=1)
