"""The published TASTE checkpoint's tokenizer as our `TasteTokenizer`.

Its three parts are found by what is certain of their names, whatever stands before them: the encoder and the two decoder layers
are transformers' Whisper (models/whisper/modeling_whisper.py), the quantiser is `ResidualVQ` of vector-quantize-pytorch.
docs/taste.md ("Official weights") says what could be checked of this, and what not.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from transforms.taste.model import TasteTokenizer, WrongTokenizer
from transforms.transcribe.convert import renamed
from transforms.transcribe.hf_whisper import weights_of

if TYPE_CHECKING:
    from whisper import Whisper

_ANCHORS = {
    "encoder": ("conv1.weight", "conv2.weight", "embed_positions.weight"),
    "decoder": ("embed_tokens.weight", "layers.0.encoder_attn.k_proj.weight"),
    "quantiser": ("project_in.weight", "layers.0._codebook.embed"),
}
"""Tensors that each part has and no other part has together: what stands before all of them is the part's prefix."""

_UNUSED = re.compile(r"layers\.\d+\._codebook\.(initted|cluster_size|embed_avg)$")
"""What vector-quantize-pytorch keeps to go on fitting."""


@dataclass(frozen=True)
class Prefixes:
    """What stands before the names of each part's tensors.

    Attributes:
        encoder: None where the checkpoint has no encoder, so that the recogniser's own is used.
    """

    encoder: str | None
    decoder: str
    quantiser: str


def find_prefixes(names: Mapping[str, Tensor]) -> Prefixes:
    """Raises WrongTokenizer where a part is not there, or is there more than once; the encoder may be missing."""
    found = {}
    for part, anchors in _ANCHORS.items():
        last = anchors[-1]
        before = [name.removesuffix(last) for name in names if name == last or name.endswith("." + last)]
        before = sorted(prefix for prefix in before if all(prefix + anchor in names for anchor in anchors))
        if len(before) > 1 or (not before and part != "encoder"):
            what = f": {', '.join(map(repr, before))}" if before else ""
            raise WrongTokenizer(f"the {part} is what has {' and '.join(anchors)}; there are {len(before)} such{what}")
        found[part] = before[0] if before else None
    return Prefixes(found["encoder"], str(found["decoder"]), str(found["quantiser"]))


def read_official(
    path: Path, whisper: "Whisper", value_layer: int = 6, prefixes: Prefixes | None = None
) -> TasteTokenizer:
    """The tokenizer of a checkpoint in the published layout, in evaluation mode.

    Args:
        path: a *.safetensors file, or a Hugging Face folder of them. whisper: the recogniser that it was fitted on, distil-whisper
            large-v3; where the checkpoint has an encoder of its own, that is used. value_layer: which no tensor tells.
        prefixes: of the parts, instead of those found.

    Raises:
        WrongTokenizer: tensors are missing, unexpected within a part, or of another shape than the recogniser's sizes ask for;
            each is named. The rest of the checkpoint (speech decoder, language model) is not looked at.
    """
    held = _tensors(path)
    try:
        where = prefixes or find_prefixes(held)
        levels, size, code_dim = _codebooks(held, where.quantiser)
        base = copy.deepcopy(whisper)
        if where.encoder is not None:
            _fill(base.encoder, _part(held, where.encoder), "encoder.", where.encoder)
        n_layers = len(whisper.decoder.blocks)
        model = TasteTokenizer(
            base,
            layers=tuple(range(n_layers)),
            value_layer=value_layer,
            levels=levels,
            size=size,
            code_dim=code_dim,
            padded=True,
        )
        # The aggregator holds the decoder's tensors under names of its own.
        decoder = base.decoder
        _fill(decoder, _part(held, where.decoder), "decoder.", where.decoder)
        _take_decoder(model, decoder)
        _take_quantiser(model, _part(held, where.quantiser), where.quantiser)
    except (WrongTokenizer, ValueError) as error:
        raise WrongTokenizer(f"{path}: {error}") from None
    return model.eval()


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        return weights_of(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WrongTokenizer(f"{path}: not a safetensors file ({error})") from error


def _part(held: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in held.items() if name.startswith(prefix)}


def _compare(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor], prefix: str) -> None:
    """Raise WrongTokenizer with all that is missing, unexpected or mis-shaped. `wanted`: name -> shape."""
    faults = [f"missing {prefix}{name} {shape}" for name, shape in wanted.items() if name not in given]
    faults += [
        f"unexpected {prefix}{name} {tuple(tensor.shape)}" for name, tensor in given.items() if name not in wanted
    ]
    faults += [
        f"{prefix}{name} has the shape {tuple(given[name].shape)}, expected {shape}"
        for name, shape in wanted.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    if faults:
        rest = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise WrongTokenizer("; ".join(faults[:8]) + rest)


@torch.no_grad()
def _fill(module: nn.Module, given: Mapping[str, Tensor], ours: str, prefix: str) -> None:
    """Copy a part in transformers' names into openai-whisper's module, whose names start with `ours` in the whole model."""
    wanted = {renamed(ours + name).removeprefix(ours): tensor for name, tensor in module.state_dict().items()}
    _compare({name: tuple(tensor.shape) for name, tensor in wanted.items()}, given, prefix)
    for name, tensor in wanted.items():
        tensor.copy_(given[name])


@torch.no_grad()
def _take_decoder(model: TasteTokenizer, decoder: nn.Module) -> None:
    aggregator = model.aggregator
    aggregator.embedding.load_state_dict(decoder.token_embedding.state_dict())
    aggregator.positions.copy_(decoder.positional_embedding)
    aggregator.norm.load_state_dict(decoder.ln.state_dict())
    for mine, theirs in zip(aggregator.blocks, decoder.blocks, strict=True):
        mine.load_state_dict(theirs.state_dict())


def _codebooks(held: Mapping[str, Tensor], prefix: str) -> tuple[int, int, int]:
    """Levels, size and dimensions."""
    names = [name for name in _part(held, prefix) if re.fullmatch(r"layers\.\d+\._codebook\.embed", name)]
    *_, size, code_dim = held[f"{prefix}layers.0._codebook.embed"].shape
    return len(names), size, code_dim


@torch.no_grad()
def _take_quantiser(model: TasteTokenizer, given: Mapping[str, Tensor], prefix: str) -> None:
    quantiser = model.quantiser
    levels, size, code_dim = quantiser.codebooks.shape
    given = {name: tensor for name, tensor in given.items() if not _UNUSED.match(name)}
    books = {f"layers.{level}._codebook.embed": (1, size, code_dim) for level in range(levels)}
    linear = {n: tuple(p.shape) for n, p in quantiser.named_parameters()}
    _compare(linear | books, given, prefix)
    for name, parameter in quantiser.named_parameters():
        parameter.copy_(given[name])
    for level, book in enumerate(books):
        quantiser.codebooks[level] = given[book][0]
