"""Resemblyzer's checkpoint of the GE2E speaker encoder -> safetensors, without its optimiser's state and its loss's two numbers."""

from pathlib import Path


def convert(fetched: Path, target: Path) -> None:
    """`fetched` holds pretrained.pt ({"model_state": state dict, ...}); `target` becomes the encoder's 14 tensors.

    Raises KeyError where the checkpoint lacks one of them.
    """
    import torch
    from safetensors.torch import save_file

    state = torch.load(fetched / "pretrained.pt", map_location="cpu", weights_only=True)["model_state"]
    names = [f"lstm.{kind}_l{layer}" for layer in range(3) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    save_file({name: state[name].contiguous() for name in [*names, "linear.weight", "linear.bias"]}, target)
