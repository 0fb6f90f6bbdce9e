"""Slots of this machine, with and without GPUs."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from launch.executors.slots import slot_machines


def test_each_gpu_has_its_slots_and_cores_are_shared(machine):
    machine = replace(machine, device="auto", threads=0)
    devices = [m.device for m in slot_machines(machine, 0, slots_per_gpu=2, gpus=2)]
    assert devices == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    cpu = slot_machines(replace(machine, device="cpu"), 2, 1, gpus=2)
    assert [m.device for m in cpu] == ["cpu", "cpu"]
    assert {m.threads for m in cpu} == {max(1, (os.cpu_count() or 1) // 2)}


@pytest.mark.parametrize(
    "device, slots, gpus, devices, threads",
    [
        ("auto", 0, 0, ["auto"] * 8, 1),
        ("auto", 0, 1, ["cuda:0"] * 3, 2),
        ("cuda", 3, 2, ["cuda:0", "cuda:1", "cuda:0"], 2),
        ("cuda:1", 0, 2, ["cuda:1"] * 3, 2),
        ("cpu", 0, 2, ["cpu"] * 8, 1),
    ],
)
def test_the_device_decides_how_many_slots_there_are(
    machine, device, slots, gpus, devices, threads
):
    machine = replace(machine, device=device, threads=0)
    found = slot_machines(machine, slots, slots_per_gpu=3, gpus=gpus, cores=8)
    assert [m.device for m in found] == devices
    assert {m.threads for m in found} == {threads}
