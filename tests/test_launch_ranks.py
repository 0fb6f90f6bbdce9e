"""Devices by name, on machines with and without GPUs."""

from __future__ import annotations

import pytest
import torch

from baselines.errors import UserError
from launch.ranks import Share, choose_device


@pytest.mark.parametrize(
    "name, gpus, local_rank, world, device",
    [
        ("auto", 0, 0, 1, "cpu"),
        ("auto", 2, 0, 1, "cuda:0"),
        ("auto", 2, 1, 2, "cuda:1"),
        ("cpu", 2, 1, 2, "cpu"),
        ("cuda", 1, 0, 1, "cuda:0"),
        ("cuda:1", 2, 0, 1, "cuda:1"),
    ],
)
def test_a_name_stands_for_a_device(name, gpus, local_rank, world, device):
    assert choose_device(name, gpus, local_rank, world) == torch.device(device)


@pytest.mark.parametrize(
    "name, gpus, world, message",
    [
        ("tpu", 1, 1, "device must be auto, cpu, cuda or cuda:N, not 'tpu'"),
        ("cuda:x", 1, 1, "device must be auto"),
        ("cuda", 0, 1, "no GPU 0: this machine has 0"),
        ("cuda:2", 2, 1, "no GPU 2: this machine has 2"),
        ("cuda:0", 2, 2, "'cuda:0' with 2 ranks: use cuda"),
    ],
)
def test_a_device_that_does_not_exist_is_named(name, gpus, world, message):
    with pytest.raises(UserError, match=message):
        choose_device(name, gpus, 0, world)


def test_shares_of_a_batch_make_up_the_batch():
    batch = torch.arange(10)
    parts = [Share(rank, 3).of(batch) for rank in range(3)]
    assert torch.equal(torch.cat(parts), batch) and [len(p) for p in parts] == [4, 3, 3]
