"""Data-parallel training: one process a core (or GPU), each on its own batches.

Started by `torchrun --nproc-per-node N`; a plain start is one worker and costs nothing. Either gradients are averaged in
every step, or weights (with the optimiser's moments) every few steps, which costs a CPU much less.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process among its peers."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Workers:
        """Meet the peers that torchrun started, if any."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), count)

    @property
    def device(self) -> torch.device:
        """Where this worker trains: the GPU of its rank, if there is any."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    def leave(self) -> None:
        """Part from the peers."""
        if self.count > 1:
            dist.destroy_process_group()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the workers, in one message (bfloat16: half the traffic)."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1).to(torch.bfloat16) for g in gradients])
        dist.all_reduce(flat)
        flat = flat.float() / self.count
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its mean over the workers, in one message."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([t.detach().reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def gather(self, value: T) -> list[T]:
        """The value of every worker, in order of rank."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return [v for v in values if v is not None]

    def share(self, module: nn.Module) -> None:
        """Give every worker the first one's weights."""
        if self.count > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, 0)


def concatenate(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pairs of tensors -> one pair, joined along the first dimension."""
    return torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])
