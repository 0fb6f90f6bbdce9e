"""Slots of this machine, with and without GPUs."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from baselines.errors import UserError
from launch.cli import main
from launch.config.run import Run
from launch.executors.local import run_all
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


@pytest.mark.parametrize(
    "slots, slots_per_gpu, message",
    [
        (-1, 1, "slots must not be negative"),
        (0, 0, "slots_per_gpu must be positive"),
        (1025, 1, "slots must be at most 1,024"),
    ],
)
def test_slots_that_cannot_be_are_refused(machine, capsys, slots, slots_per_gpu, message):
    with pytest.raises(UserError, match=message):
        run_all([Run.make("digits", "random")], machine, slots, slots_per_gpu)
    commands = [["grid", "quick"], ["calibrate", "str"]]
    commands += [["runs", "retry"]] * (slots_per_gpu == 1)
    for command in commands:
        flags = ["--slots", str(slots), "--slots-per-gpu", str(slots_per_gpu)]
        flags = flags[:2] if command[0] == "runs" else flags
        assert main([*command, *flags, "--runs", str(machine.runs)]) == 2
        assert message in capsys.readouterr().err
    assert not machine.runs.exists()
