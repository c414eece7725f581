"""Linear maps of float32 through oneDNN, on processors where torch's BLAS leaves half of the machine unused.

torch's builds for CPUs multiply float32 matrices with MKL, which on AMD's processors keeps to AVX2. oneDNN, which comes with torch
too and which torch takes for bfloat16, has kernels for AVX-512 on either maker's: 250 instead of 110 GFLOP/s on one core of an EPYC
(docs/benchmarks.md). Sums are in another order, so that results differ in the last bits of a float32.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CPUINFO = Path("/proc/cpuinfo")


def suits(setting: str, device: torch.device) -> bool:
    """Whether `train.products` means oneDNN on this machine. The same answer each time, for runs that are gone on with."""
    if device.type != "cpu" or setting == "blas" or not torch.backends.mkldnn.is_available():
        return False
    return setting == "onednn" or (amd() and torch.backends.cpu.get_cpu_capability() == "AVX512")


@cache
def amd() -> bool:
    """Whether the processor is AMD's, as far as Linux says so."""
    try:
        return "AuthenticAMD" in CPUINFO.read_text()
    except OSError:
        return False


def product(a: Tensor, b: Tensor) -> Tensor:
    """`[..., K]`, `[N, K]` -> `[..., N]`, of any strides. What torch's own compiler calls for a linear map on a CPU."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return found


# The compiler has a rule of its own for that operation, for constant weights alone: it sees a name that it does not know.
_opaque: Any = torch.library.custom_op("antiphon::product", product, mutates_args=())


@_opaque.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty((*a.shape[:-1], len(b)))


def _multiply() -> Callable[[Tensor, Tensor], Tensor]:
    return _opaque if torch.compiler.is_compiling() else product


class Product(torch.autograd.Function):
    """`x [..., K]`, `weight [N, K]` -> `x weight^T [..., N]`, and both gradients, through oneDNN."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return _multiply()(x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        wanted, multiply = ctx.needs_input_grad, _multiply()
        of_x = multiply(gradient, weight.t()) if wanted[0] else None
        of_weight = multiply(gradient.flatten(0, -2).t(), x.flatten(0, -2).t()) if wanted[1] else None
        return of_x, of_weight


class OneDnnLinear(nn.Linear):
    """`nn.Linear`, its float32 products through oneDNN. What is not float32, or autocast, goes as ever."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or not x.numel() or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        found: Tensor = Product.apply(x if x.dim() > 1 else x[None], self.weight)
        found = found if x.dim() > 1 else found[0]
        return found if self.bias is None else found + self.bias


def through_onednn(model: nn.Module) -> None:
    """Make every plain linear map of a model a `OneDnnLinear`, in place: the same weights under the same names."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
