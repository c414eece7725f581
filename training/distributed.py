"""Several processes under torchrun: who is who, sums over all, and a model whose gradients are shared.

Every process makes the same batches and takes its part of the rows, so that the batches do not depend on how many there are.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Ranks:
    """This process's number and how many there are."""

    rank: int = 0
    size: int = 1

    def sum(self, values: Sequence[float], device: torch.device | str = "cpu") -> list[float]:
        """The sums over all processes, the same in each of them."""
        if self.size == 1:
            return list(values)
        # float64 on a CPU, where gloo sums in a fixed order; NCCL takes it too.
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()


@contextlib.contextmanager
def ranks(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """The processes that torchrun started, and this one's device; this one alone where it was not torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, torch.device(device)
        return
    cuda = device.startswith("cuda")
    own = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if cuda else device)
    if cuda:
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), size), own
        dist.barrier()  # none closes its connections while another still uses them
    finally:
        dist.destroy_process_group()


def parallel(model: Any, kind: str, ranks: Ranks, device: torch.device) -> nn.Module:
    """A model to call instead, whose gradients are means over the processes. `kind`: ddp or fsdp.

    FSDP shards the model in place, layer by layer, and gives it back.
    """
    if ranks.size == 1:
        return model
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks.size,))
    for trunk in (model.trunk, model.base):
        for layer in trunk.get_decoder().layers if trunk is not None else ():
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@contextlib.contextmanager
def unshared(model: nn.Module, last: bool) -> Iterator[None]:
    """Gradients stay in this process while it is not the `last` part of a batch, and add up."""
    if last or isinstance(model, nn.parallel.DistributedDataParallel):
        with model.no_sync() if not last else contextlib.nullcontext():
            yield
        return
    setter = getattr(model, "set_requires_gradient_sync", None)
    if setter is None:
        yield
        return
    setter(False)
    try:
        yield
    finally:
        setter(True)


def whole(value: Any) -> Any:
    """A value with every sharded tensor in it put together. All processes must ask."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: whole(inner) for key, inner in value.items()}
    return [whole(inner) for inner in value] if isinstance(value, list) else value


def as_sharded(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor sharded as another is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value
