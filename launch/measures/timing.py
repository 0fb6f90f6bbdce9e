"""Times of alternatives, measured in turn so that other load on the machine affects all alike.

With one thread, times are those of the process on the CPU: on a machine without other load they
equal wall-clock times, and with other load they exclude the pauses in which other processes run.
With several threads, wall-clock times are measured.

A GPU works while the process prepares the next call. A round there has several calls between two
moments at which the GPU is idle, so a call takes what it takes within a network: the time of the
GPU, or that of the process if it is longer.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

WARM_UP = 2  # rounds that are not counted: the first ones select kernels and fill caches
SECONDS = 0.5  # short works are done in up to `MORE` times as many rounds, until so much time
MORE = 10
GPU_CALLS = 10  # of each work in a round on a GPU
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Times:
    """Times of one alternative.

    Attributes:
        seconds: the median.
        ratio: median over rounds of its time divided by that of the first alternative.
    """

    seconds: float
    ratio: float


Measure = Callable[[Mapping[str, Callable[[], object]], int, torch.device], dict[str, Times]]


def measure(
    works: Mapping[str, Callable[[], object]], rounds: int, device: torch.device = CPU
) -> dict[str, Times]:
    """Return the times of alternatives, which take turns in each round in random order.

    Args:
        works: alternatives by name; the first one is the reference.
        rounds: number of rounds that are counted, at least.
        device: what does the works.
    """
    on_gpu = device.type == "cuda"
    own_time = torch.get_num_threads() == 1 and not on_gpu
    clock = time.process_time if own_time else time.perf_counter
    calls = GPU_CALLS if on_gpu else 1
    names, order = list(works), random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in names}
    spent, done = 0.0, -WARM_UP
    while done < rounds or (spent < SECONDS and done < MORE * rounds):
        for name in order.sample(names, len(names)):
            wait_for(device)
            began = clock()
            for _ in range(calls):
                works[name]()
            wait_for(device)
            seconds = clock() - began
            if done >= 0:
                found[name].append(seconds / calls)
                spent += seconds
        done += 1
    first = found[names[0]]
    return {
        name: Times(
            statistics.median(seconds),
            statistics.median(s / f for s, f in zip(seconds, first, strict=True)),
        )
        for name, seconds in found.items()
    }


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished its work; on a CPU, return at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds until the work is done, which a GPU may do asynchronously."""
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began


@contextmanager
def threads_set(number: int) -> Iterator[None]:
    """Let torch use that number of CPU threads in the block; 0: do not change it."""
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number:
            torch.set_num_threads(before)
