"""One process or several: ranks as torchrun, or a Slurm job, sets them in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from baselines.errors import UserError
from launch.data.loading import Share


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> Share:
        return Share(self.rank, self.world)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]


@contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """Joins the process group that the environment names, if it names one.

    Args:
        device: auto, cpu, cuda, or cuda:N.

    Raises:
        UserError: a device that is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = find_device(device, int(os.environ.get("LOCAL_RANK", "0")), world)
    if world == 1:
        yield Ranks(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()


def find_device(name: str, local_rank: int = 0, world: int = 1) -> torch.device:
    """The device of that name: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: it is not there.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}.")
    if index and world > 1:
        raise UserError(f"device {name!r} with {world} ranks: use cuda, each rank takes its own.")
    number = int(index) if index else local_rank
    if number >= count:
        raise UserError(f"no GPU {number}: this machine has {count}. Use --device cpu or auto.")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
