"""Converters: against the reference weights, and against small models written in the source's own format."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from transforms.weights import MissingWeights, locate
from transforms.weights.convert import hifigan, ljspeech_sample, smollm2_gguf, whisper_ggml


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


def test_folding_weight_norm_leaves_the_layer_as_it_was() -> None:
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 5, 7))
    parts = {"g": layer.parametrizations.weight.original0, "v": layer.parametrizations.weight.original1}
    state = {"conv.bias": layer.bias, "conv.weight_g": parts["g"] * 3, "conv.weight_v": parts["v"]}
    folded = hifigan.fold_weight_norm(state)
    assert folded.keys() == {"conv.bias", "conv.weight"}
    torch.testing.assert_close(folded["conv.weight"], 3 * layer.weight)


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
