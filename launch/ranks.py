"""The processes of a run, as torchrun or a Slurm job describes them in the environment."""

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


@dataclass(frozen=True)
class Share:
    """The part of every batch that belongs to one rank."""

    rank: int = 0
    world: int = 1

    def of(self, batch: Tensor) -> Tensor:
        """Return this rank's part of a batch, along the first dimension."""
        return batch.tensor_split(self.world)[self.rank]


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of a run."""

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
        """Return the sum over ranks, computed in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_first(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def any_text(self, text: str) -> str:
        """Return the text of the first rank that has one, on every rank; empty if none has."""
        if self.world == 1:
            return text
        texts = [""] * self.world
        dist.all_gather_object(texts, text)
        return next(filter(None, texts), "")


def is_first() -> bool:
    """Return whether this is the only process of a run, or its first, before the ranks join."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Join the process group that the environment describes; without one, run as a single process.

    Args:
        device: auto, cpu, cuda, or cuda:N.

    Raises:
        UserError: the device does not exist.
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
    """Return the device of that name. A GPU becomes the current device.

    Raises:
        UserError: the device does not exist.
    """
    device = choose_device(name, torch.cuda.device_count(), local_rank, world)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def choose_device(name: str, gpus: int, local_rank: int = 0, world: int = 1) -> torch.device:
    """Return the device of a name on a machine with a number of GPUs.

    Args:
        name: auto, cpu, cuda or cuda:N.
        gpus: number of GPUs of the machine.
        local_rank: index of this process on its machine.
        world: number of processes of the run.

    Raises:
        UserError: the name is not valid, or the device does not exist.
    """
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}.")
    if index and world > 1:
        raise UserError(f"device {name!r} with {world} ranks: use cuda, each rank takes its own.")
    number = int(index) if index else local_rank
    if number >= gpus:
        raise UserError(f"no GPU {number}: this machine has {gpus}. Use --device cpu or auto.")
    return torch.device("cuda", number)
