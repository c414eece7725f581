"""LoRA (arXiv 2106.09685) on every linear map of the trunk, through peft."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from schemas.errors import UserError
from training.options import LoraOptions


def add(trunk: Any, options: LoraOptions, seed: int) -> None:
    """Put adapters beside all linear maps of the trunk's decoder. They change nothing until they are trained.

    Raises UserError where peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("train.model.lora needs peft: pip install antiphon[train]") from None
    import torch

    decoder = trunk.get_decoder()
    names = [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=names, bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, decoder)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


@contextmanager
def without_adapters(trunk: Any) -> Iterator[None]:
    """The trunk as it was before LoRA, for as long as this lasts."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in trunk.modules() if isinstance(module, BaseTunerLayer)]
    # The flag alone: `enable_adapters` would also say that the adapters are not trained.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merge(trunk: Any) -> None:
    """Add the adapters to the weights they stand beside, and take them out: a plain trunk of the same predictions."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(trunk.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(trunk.get_submodule(parent), child, module.get_base_layer())
