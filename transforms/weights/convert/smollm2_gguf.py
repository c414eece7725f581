"""SmolLM2 in a GGUF file -> the folder its publisher ships: config, tokenizer and safetensors for `from_pretrained`.

Names and the row order of GGUF's Llama tensors: llama.cpp, gguf-py/gguf/tensor_mapping.py and convert_hf_to_gguf.py.
"""

from pathlib import Path
from typing import Any

import numpy as np

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN = 3


def convert(fetched: Path, target: Path) -> None:
    """`fetched` holds one `.gguf` file; `target` becomes a folder with the weights de-quantized to bfloat16."""
    import torch
    import transformers
    from gguf import GGUFReader, dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    transformers.utils.logging.disable_progress_bar()
    (path,) = fetched.glob("*.gguf")
    reader = GGUFReader(path)

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    tokenizer = read_tokenizer(value)
    n_heads = {"attn_q": value("llama.attention.head_count"), "attn_k": value("llama.attention.head_count_kv")}
    config = LlamaConfig(
        vocab_size=value("llama.vocab_size"),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=n_heads["attn_q"],
        num_key_value_heads=n_heads["attn_k"],
        max_position_embeddings=value("llama.context_length"),
        rope_theta=value("llama.rope.freq_base"),
        # Kept as float32 in the file, where 1e-5 reads 9.99999974e-06.
        rms_norm_eps=float(f"{value('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    state = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in n_heads:
            values = interleaved_to_halves(values, n_heads[kind])
        state[_name(tensor.name)] = torch.from_numpy(values.astype(np.float32))
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config)
    model.load_state_dict(state, strict=True)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _name(name: str) -> str:
    """transformers' name of a GGUF tensor: blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight."""
    if name.startswith("blk."):
        _, layer, kind, suffix = name.split(".")
        return f"model.layers.{layer}.{_NAMES[kind]}.{suffix}"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]


def interleaved_to_halves(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of a query or key projection [H * D, C] from llama.cpp's rotary order (x0 y0 x1 y1 ...) to (x0 x1 ... y0 y1 ...)."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, rows // n_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def read_tokenizer(value: Any) -> Any:
    """The tokenizer inside a GGUF file of SmolLM2, as a `PreTrainedTokenizerFast` with its chat template.

    Splits as the publisher's tokenizer.json does: a digit a token, the rest by GPT-2's byte-level pattern.

    Args:
        value: key of a GGUF field -> its contents.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if value("tokenizer.ggml.pre") != "smollm":
        raise ValueError(f"the file splits text by {value('tokenizer.ggml.pre')!r}; this converter knows 'smollm' only")
    tokens = value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, value("tokenizer.ggml.token_type"), strict=True)
    special = [AddedToken(token, normalized=False, special=True) for token, kind in kinds if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[value("tokenizer.ggml.bos_token_id")],
        eos_token=tokens[value("tokenizer.ggml.eos_token_id")],
        unk_token=tokens[value("tokenizer.ggml.unknown_token_id")],
        pad_token=tokens[value("tokenizer.ggml.padding_token_id")],
        model_max_length=value("llama.context_length"),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = value("tokenizer.chat_template")
    return fast
