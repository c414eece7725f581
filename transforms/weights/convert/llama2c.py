"""A language model in llama2.c's first file format, its tokenizer.bin behind it -> a folder for `from_pretrained`.

The formats, little-endian (github.com/karpathy/llama2.c: export.py `legacy_export`, tokenizer.py `export`). Model: seven int32
(width, width of the feed-forward layers, layers, heads, key-value heads, vocabulary, positions), then float32 tensors in the
order of `_shapes`; a negative vocabulary says that a text head of its own stands at the end. Tokenizer: int32 length of the
longest token, then for each token float32 score, int32 length, and its bytes, a space where SentencePiece writes U+2581.
"""

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transforms.weights.convert.smollm2_gguf import interleaved_to_halves

_SPECIAL = ("<unk>", "<s>", "</s>")
_N_BYTES = 256
"""The tokens after the special ones are the single bytes 0 to 255, by which unknown characters are written."""
_SPACE = "\u2581"


def convert(fetched: Path, target: Path) -> None:
    """`fetched` holds one `.data` file, a model and then its tokenizer; `target` becomes a folder with float32 weights."""
    import torch
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM

    transformers.utils.logging.disable_progress_bar()
    (path,) = fetched.glob("*.data")
    data = path.read_bytes()
    sizes, state, used = read_model(data)
    tokens, scores = read_tokens(data[used:], sizes["vocab_size"])
    config = LlamaConfig(
        **sizes,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings="lm_head.weight" not in state,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()}, strict=True)
    model.save_pretrained(target)
    make_tokenizer(tokens, scores, sizes["max_position_embeddings"]).save_pretrained(target)


def read_model(data: bytes) -> tuple[dict[str, int], dict[str, np.ndarray], int]:
    """The sizes by `LlamaConfig`'s names, the tensors by `LlamaForCausalLM`'s, and how many bytes they took.

    Raises:
        ValueError: sizes that no such model has, or the file ends early.
    """
    if len(data) < 28:
        raise ValueError(f"{len(data)} bytes are too few for a llama2.c model")
    width, hidden, layers, heads, kv_heads, vocabulary, positions = struct.unpack_from("<7i", data)
    own_head, vocabulary = vocabulary < 0, abs(vocabulary)
    counts = (width, hidden, layers, heads, kv_heads, vocabulary, positions)
    if min(counts) < 1 or width % heads or heads % kv_heads:
        raise ValueError(f"no llama2.c model has the sizes {counts} that this file begins with")
    sizes = {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
    }
    state: dict[str, np.ndarray] = {}
    at = 28
    for name, shape in _shapes(sizes, own_head):
        n = math.prod(shape)
        if at + 4 * n > len(data):
            raise ValueError(
                f"the model's file ends {at + 4 * n - len(data)} bytes early, in {name or 'its rotations'}"
            )
        values = np.frombuffer(data, "<f4", n, at).reshape(shape)
        at += 4 * n
        if "{}" not in name:
            state[name] = values.copy()
            continue
        for layer, tensor in enumerate(values):
            if "q_proj" in name or "k_proj" in name:
                tensor = interleaved_to_halves(tensor, heads if "q_proj" in name else kv_heads)
            state[name.format(layer)] = tensor.copy()
    state.pop("")
    return sizes, state, at


def _shapes(sizes: dict[str, int], own_head: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of the tensors in the file's order; "{}" stands for the layer, "" for what is not kept."""
    width, hidden, layers = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"]
    head = width // sizes["num_attention_heads"]
    kv = head * sizes["num_key_value_heads"]
    embedding = (sizes["vocab_size"], width)
    layer = "model.layers.{}."
    return [
        ("model.embed_tokens.weight", embedding),
        (layer + "input_layernorm.weight", (layers, width)),
        (layer + "self_attn.q_proj.weight", (layers, width, width)),
        (layer + "self_attn.k_proj.weight", (layers, kv, width)),
        (layer + "self_attn.v_proj.weight", (layers, kv, width)),
        (layer + "self_attn.o_proj.weight", (layers, width, width)),
        (layer + "post_attention_layernorm.weight", (layers, width)),
        (layer + "mlp.gate_proj.weight", (layers, hidden, width)),
        (layer + "mlp.down_proj.weight", (layers, width, hidden)),
        (layer + "mlp.up_proj.weight", (layers, hidden, width)),
        ("model.norm.weight", (width,)),
        # Cosines and sines of the rotary positions, which follow from the sizes.
        ("", (2, sizes["max_position_embeddings"], head // 2)),
        *([("lm_head.weight", embedding)] if own_head else []),
    ]


def read_tokens(data: bytes, count: int) -> tuple[list[str], list[float]]:
    """Tokens as SentencePiece writes them, and their scores.

    Raises:
        ValueError: the file ends early, or goes on after `count` tokens.
    """
    tokens, scores = [], []
    at = 4
    for i in range(count):
        if at + 8 > len(data):
            raise ValueError(f"the tokenizer's file ends in token {i} of {count}")
        score, length = struct.unpack_from("<fi", data, at)
        token = data[at + 8 : at + 8 + length]
        at += 8 + length
        if i < len(_SPECIAL):
            tokens.append(_SPECIAL[i])
        elif i < len(_SPECIAL) + _N_BYTES:
            # Older files hold the character of that number here, newer ones this name.
            tokens.append(f"<0x{i - len(_SPECIAL):02X}>")
        else:
            tokens.append(token.decode().replace(" ", _SPACE))
        scores.append(score)
    if at != len(data):
        raise ValueError(f"the tokenizer's file has {len(data)} bytes, and its {count} tokens take {at}")
    return tokens, scores


def merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Pairs of tokens that make another, the highest score first: what SentencePiece joins, as a list for `tokenizers`."""
    first = len(_SPECIAL) + _N_BYTES
    known = set(tokens[first:])
    found = []
    for i in sorted(range(first, len(tokens)), key=lambda i: -scores[i]):
        pairs = ((tokens[i][:at], tokens[i][at:]) for at in range(1, len(tokens[i])))
        found += [pair for pair in pairs if pair[0] in known and pair[1] in known]
    return found


def make_tokenizer(tokens: Sequence[str], scores: Sequence[float], n_positions: int) -> Any:
    """A `PreTrainedTokenizerFast` that splits text as SentencePiece's BPE does, with a space put before it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges(tokens, scores), unk_token=_SPECIAL[0], fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bos = _SPECIAL[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, 1)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=_SPECIAL[0],
        bos_token=_SPECIAL[1],
        eos_token=_SPECIAL[2],
        pad_token=_SPECIAL[2],
        model_max_length=n_positions,
        clean_up_tokenization_spaces=False,
    )
