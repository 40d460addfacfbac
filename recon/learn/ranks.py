"""Several processes that train one network, each on a GPU or a part of the CPU, as started by `torchrun`."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from recon.nets.unrolled import Problem, Unrolled


@dataclass(frozen=True)
class Rank:
    """The number of this process among `size` that train together."""

    number: int = 0
    size: int = 1
    #: The process's number on its machine, which is also that of its GPU.
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the log, the checkpoints and the weights."""
        return self.number == 0

    def agree(self, value: float) -> float:
        """The first process's value, in all processes."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return float(shared)

    def together(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            self.agree(0.0)


def join(device: torch.device) -> Rank:
    """This process's rank, after all have connected; a process that `torchrun` did not start is alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Rank()
    if not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return Rank(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))


def leave(rank: Rank) -> None:
    """Disconnect from the others."""
    if rank.size > 1 and distributed.is_initialized():
        distributed.destroy_process_group()


class Cascades(nn.Module):
    """`Unrolled.steps` as the forward pass, because processes add up the gradients of the forward pass."""

    def __init__(self, network: Unrolled) -> None:
        super().__init__()
        self.network = network

    def forward(self, problem: Problem, denoise: Tensor) -> list[Tensor]:
        """The image after every cascade."""
        return self.network.steps(problem, denoise)


def shared(network: Unrolled, rank: Rank) -> nn.Module:
    """The network as this process runs it: with several processes, gradients are means over all."""
    alone = Cascades(network)
    return nn.parallel.DistributedDataParallel(alone) if rank.size > 1 else alone
