"""A Whisper checkpoint in Hugging Face's format (a folder) as openai-whisper's model: the inverse of `convert.to_transformers`.

So distil-whisper's checkpoints, which are published in that format, serve wherever one in openai-whisper's does.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import UserError
from transforms.transcribe.convert import renamed

if TYPE_CHECKING:
    from torch import Tensor
    from whisper import Whisper


class WrongWhisper(UserError):
    """The folder holds no Whisper, or one that openai-whisper's code cannot be."""


_SIZES = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
"""openai-whisper's `ModelDimensions` -> transformers' `WhisperConfig`."""


def read_whisper(folder: Path) -> "Whisper":
    """The model of a Hugging Face folder, in float32 on the CPU, in evaluation mode.

    Raises:
        WrongWhisper: no config.json or weights, another kind of model, feed-forward layers that are not 4 times as wide, or
            tensors that are missing or of another shape; each is named.
    """
    from whisper.model import ModelDimensions, Whisper

    config = _config(folder)
    # The model's own start is thrown away, so it takes no numbers from the generator that a fit is seeded with.
    import torch

    with torch.random.fork_rng():
        model = Whisper(ModelDimensions(**{ours: int(config[theirs]) for ours, theirs in _SIZES.items()}))
    held = weights_of(folder)
    # WhisperForConditionalGeneration prefixes what WhisperModel does not; the output projection is the embedding.
    prefix = "model." if any(name.startswith("model.") for name in held) else ""
    wanted = model.state_dict()
    missing = [theirs for ours in wanted if (theirs := prefix + renamed(ours)) not in held]
    if missing:
        raise WrongWhisper(f"{folder}: {len(missing)} tensors are missing: {', '.join(missing[:5])}")
    found = {ours: held[prefix + renamed(ours)].float() for ours in wanted}
    for ours, tensor in found.items():
        if tensor.shape != wanted[ours].shape:
            shapes = f"{tuple(tensor.shape)}, by config.json {tuple(wanted[ours].shape)}"
            raise WrongWhisper(f"{folder}: {prefix + renamed(ours)} has the shape {shapes}")
    model.load_state_dict(found)
    return model.eval()


def weights_of(folder: Path) -> "dict[str, Tensor]":
    """All tensors of a folder's *.safetensors, or else pytorch_model*.bin (read without unpickling code).

    Raises WrongWhisper where there is neither.
    """
    import torch
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    if not tensors:
        for path in sorted(folder.glob("pytorch_model*.bin")):
            tensors |= torch.load(path, map_location="cpu", weights_only=True)
    if not tensors:
        raise WrongWhisper(f"{folder}: no *.safetensors and no pytorch_model*.bin in it")
    return tensors


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise WrongWhisper(f"{path}: no config of a Hugging Face model ({error})") from error
    if kind != "whisper":
        raise WrongWhisper(f"{path}: model_type {kind!r}, not 'whisper'")
    absent = sorted({theirs for theirs in _SIZES.values() if theirs not in config})
    if absent:
        raise WrongWhisper(f"{path}: without {', '.join(absent)}")
    for part in ("encoder", "decoder"):
        width = config.get(f"{part}_ffn_dim")
        if width != 4 * config["d_model"]:
            raise WrongWhisper(f"{path}: {part}_ffn_dim {width}; openai-whisper's is 4 x {config['d_model']}")
    return dict(config)
