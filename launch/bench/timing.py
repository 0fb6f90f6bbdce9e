"""Timing of work that a GPU may do asynchronously."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from launch.measures.rounds import wait_for


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds until the work is done."""
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began
