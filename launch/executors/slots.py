"""Slots: the parts of this machine, each of which trains one run at a time."""

from __future__ import annotations

import os
from dataclasses import replace

from baselines.errors import check_at_most, check_not_negative, check_positive
from launch.config.machine import Machine

MOST_SLOTS = 1024


def check_slots(slots: int, slots_per_gpu: int = 1) -> None:
    """Raise UserError if the machine cannot have that many slots; 0: as many as it can have."""
    check_not_negative(slots=slots)
    check_positive(slots_per_gpu=slots_per_gpu)
    check_at_most(MOST_SLOTS, slots=slots, slots_per_gpu=slots_per_gpu)


def slot_machines(
    machine: Machine, slots: int, slots_per_gpu: int, gpus: int, cores: int | None = None
) -> list[Machine]:
    """Return what each slot runs on: the GPUs in turn, and an equal share of the cores.

    Args:
        machine: its device says whether the GPUs are used (auto, cuda), one of them, or none.
        slots: number of slots; 0: one per core, or `slots_per_gpu` on each GPU.
        gpus: number of GPUs of this machine.
        cores: number of cores; by default those of this machine.

    Raises:
        UserError: a number of slots is out of range.
    """
    check_slots(slots, slots_per_gpu)
    cores = cores or os.cpu_count() or 1
    everywhere = machine.device in ("auto", "cuda")
    devices = [f"cuda:{i}" for i in range(gpus if everywhere else 0)] or [machine.device]
    on_gpu = devices[0].startswith("cuda")
    slots = slots or (len(devices) * slots_per_gpu if on_gpu else cores)
    threads = machine.threads or max(1, cores // slots)
    return [
        replace(machine, device=devices[i % len(devices)], threads=threads) for i in range(slots)
    ]
