"""A checkpoint in openai-whisper's format as a Hugging Face folder, or as the CTranslate2 folder that faster-whisper reads.

python -m transforms.transcribe.convert whisper-tiny FOLDER [--ctranslate2] [--quantization int8]
"""

import argparse
import re
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from transforms.weights import locate

_RENAMES = (
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn\.", ".self_attn."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"\.out\.", ".out_proj."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"^encoder\.ln_post\.", "encoder.layer_norm."),
    (r"^decoder\.ln\.", "decoder.layer_norm."),
    (r"^decoder\.token_embedding\.", "decoder.embed_tokens."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
)
"""openai-whisper's parameter names (whisper/model.py) -> transformers' (models/whisper/modeling_whisper.py), in this order."""


def to_transformers(name: str, target: Path) -> None:
    """Write the openai-whisper checkpoint `name` (or path) to the folder `target`, in float32.

    What transformers reads: weights, config, generation config, feature extractor and tokenizer. The parameters are the same
    numbers under other names; the output projection is the token embedding in both.

    Raises MissingWeights, and KeyError or RuntimeError for a file that holds another model.
    """
    import torch
    from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
    from whisper.tokenizer import get_tokenizer

    held = torch.load(locate(name).path, map_location="cpu", weights_only=True)
    dims = held["dims"]
    # whisper/model.py: which vocabulary it is follows from its size.
    multilingual = dims["n_vocab"] >= 51865
    tokenizer = get_tokenizer(multilingual, num_languages=dims["n_vocab"] - 51765 - int(multilingual))
    model = WhisperForConditionalGeneration(_config(dims, tokenizer)).eval()
    state = {f"model.{renamed(key)}": value.float() for key, value in held["model_state_dict"].items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    # A new one: the model's own is marked as derived from its config, and would be derived again on loading.
    model.generation_config = GenerationConfig(**_generation(tokenizer, multilingual))
    model.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=dims["n_mels"]).save_pretrained(target)
    _tokenizer(tokenizer).save_pretrained(target)


def to_ctranslate2(name: str, target: Path, quantization: str | None = None) -> None:
    """Write the openai-whisper checkpoint `name` (or path) to the new folder `target`, through `to_transformers`.

    Args:
        quantization: as `ct2-transformers-converter` has it, such as "int8" or "float16"; None keeps float32.
    """
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as folder:
        to_transformers(name, Path(folder))
        copied = ["tokenizer.json", "preprocessor_config.json"]
        TransformersConverter(folder, copy_files=copied).convert(str(target), quantization=quantization)


def renamed(key: str) -> str:
    """A parameter's name in openai-whisper -> in transformers, without the leading `model.`."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _config(dims: Mapping[str, int], tokenizer: Any) -> Any:
    from transformers import WhisperConfig

    return WhisperConfig(
        vocab_size=dims["n_vocab"],
        num_mel_bins=dims["n_mels"],
        d_model=dims["n_audio_state"],
        encoder_layers=dims["n_audio_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        decoder_layers=dims["n_text_layer"],
        decoder_attention_heads=dims["n_text_head"],
        decoder_ffn_dim=4 * dims["n_text_state"],
        max_source_positions=dims["n_audio_ctx"],
        max_target_positions=dims["n_text_ctx"],
        decoder_start_token_id=tokenizer.sot,
        bos_token_id=tokenizer.eot,
        eos_token_id=tokenizer.eot,
        pad_token_id=tokenizer.eot,
    )


def _generation(tokenizer: Any, multilingual: bool) -> dict[str, Any]:
    """What WhisperForConditionalGeneration.generate looks up, by transformers' names."""
    never = (
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
        tokenizer.no_speech,
    )
    found: dict[str, Any] = {
        "decoder_start_token_id": tokenizer.sot,
        "bos_token_id": tokenizer.eot,
        "eos_token_id": tokenizer.eot,
        "pad_token_id": tokenizer.eot,
        "max_length": 448,
        "is_multilingual": multilingual,
        "no_timestamps_token_id": tokenizer.no_timestamps,
        "prev_sot_token_id": tokenizer.sot_prev,
        "max_initial_timestamp_index": 50,
        "suppress_tokens": sorted({*tokenizer.non_speech_tokens, *never}),
        "begin_suppress_tokens": [*tokenizer.encoding.encode(" "), tokenizer.eot],
    }
    if multilingual:
        found["lang_to_id"] = {
            f"<|{code}|>": tokenizer.to_language_token(code) for code in tokenizer.all_language_codes
        }
        found["task_to_id"] = {"transcribe": tokenizer.transcribe, "translate": tokenizer.translate}
    return found


def _tokenizer(tokenizer: Any) -> Any:
    """openai-whisper's byte-pair encoding as a `WhisperTokenizer`."""
    from tokenizers import AddedToken
    from transformers import WhisperTokenizer

    ranks: dict[bytes, int] = tokenizer.encoding._mergeable_ranks
    letters = byte_letters()
    written = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [
        (written[left], written[right])
        for token in sorted(ranks, key=ranks.__getitem__)
        for left, right in _splits(token, ranks)
    ]
    made = WhisperTokenizer(vocab={written[token]: rank for token, rank in ranks.items()}, merges=merges)
    special = sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__)
    # In the order of their numbers, which follow on the last rank.
    made.add_tokens([AddedToken(token, normalized=False, special=True) for token in special], special_tokens=True)
    wrong = [token for token in special if made.convert_tokens_to_ids(token) != tokenizer.special_tokens[token]]
    if wrong:
        raise ValueError(f"the tokenizer numbers {', '.join(wrong[:5])} otherwise than openai-whisper does")
    return made


def _splits(token: bytes, ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The one merge that makes a token of several bytes: what the encoding of its bytes comes to with all merges before it."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        best = min(range(len(joined)), key=joined.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [(parts[0], parts[1])] if len(parts) == 2 else []


def byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte (the `bytes_to_unicode` of its encoder): itself, or one from 256 on."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="openai-whisper checkpoint: a name that `antiphon pull` knows, or a path")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument(
        "--ctranslate2", action="store_true", help="for faster-whisper (pip install antiphon[faster-whisper])"
    )
    parser.add_argument("--quantization", help="of CTranslate2's weights, such as int8")
    given = parser.parse_args()
    if given.ctranslate2:
        to_ctranslate2(given.name, given.target, given.quantization)
    else:
        to_transformers(given.name, given.target)


if __name__ == "__main__":
    main()
