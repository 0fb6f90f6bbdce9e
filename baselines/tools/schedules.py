"""Schedules as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Literal

Factor = Callable[[int, int], float]  # of a step and the number of steps

LEAST_PERIODS = 10
SHORTEST_PERIOD = 25  # 100 steps of RigL's CIFAR-10 training have as many images as 25 of ours


def triangular(step: int, total: int, warmup: float = 0.2, start: float = 0.2) -> float:
    """Return the factor on the peak learning rate: linear from `start` to 1, then linear to 0.

    "Triangular" of "Sign-In to the Lottery" (Table 6), as in its group's code: through (0, start),
    (⌊warmup·total⌋, 1) and (total, 0), evaluated at every step.

    Args:
        step: number of the step, from 0 to total − 1.
        total: number of steps.
        warmup: fraction of the steps in which it rises.
        start: first value.
    """
    peak = int(warmup * total)
    if step < peak:
        return start + (1 - start) * step / peak
    return (total - step) / (total - peak)


def cubic_sparsity(i: int, n: int, final: float, initial: float = 0.0) -> float:
    """Return the sparsity after the i-th of n events: s + (s_i − s)·(1 − i/n)³, Zhu & Gupta 2017.

    Args:
        initial, final: the sparsities s_i before the first event and s after the last one.
    """
    return final if i == n else initial + (final - initial) * (1 - (1 - i / n) ** 3)


@cache
def events(begin: float, end: float, count: int, total: int) -> tuple[int, ...]:
    """Return the steps of up to `count` events, evenly spaced from begin·total to end·total.

    Both ends are included. There is at most one event per step.
    """
    first, last = int(begin * total), int(end * total)
    n = min(count, last - first + 1)
    return tuple(last - round(j * (last - first) / max(1, n - 1)) for j in reversed(range(n)))


def cosine_fraction(step: int, end: float, start: float) -> float:
    """Return RigL's drop fraction: start/2·(1 + cos(π·step/end)), 0 from `end` on."""
    return start / 2 * (1 + math.cos(math.pi * min(1.0, step / end)))


def is_update(step: int, end: float, updates: int, every: int = 0) -> bool:
    """Return whether SET and RigL update masks at a step: after 0 and before `end`.

    Args:
        updates: number of updates, evenly spaced. In a short training they are at least
            `SHORTEST_PERIOD` steps apart, or there are `LEAST_PERIODS` periods before `end`.
        every: if not 0, the steps from one update to the next instead. In a short training there
            are `LEAST_PERIODS` periods before `end`.
    """
    if not 0 < step < end:
        return False
    if every:
        return step % max(1, min(every, int(end / LEAST_PERIODS))) == 0
    periods = min(updates + 1, max(LEAST_PERIODS, int(end / SHORTEST_PERIOD)))
    return int(step * periods / end) > int((step - 1) * periods / end)


@cache
def acdc_phases(epochs: int, steps: int) -> dict[int, Literal["sparse", "dense"]]:
    """Return the first step of each phase of AC/DC after the dense warm-up, with its kind.

    Args:
        epochs: number of epochs. 100, 150 and 200 have the official lists of epochs (10 of warm-up,
            5 and 5 in turn, 10 dense, 15 sparse), others that of 100, scaled.
        steps: number of steps of the whole training.
    """
    length = epochs if epochs in (100, 150, 200) else 100
    sparse = [*range(10, length - 29, 10), length - 15]
    dense = [*range(15, length - 34, 10), length - 25]
    begins: list[tuple[int, Literal["sparse", "dense"]]] = [
        *((epoch, "sparse") for epoch in sparse),
        *((epoch, "dense") for epoch in dense),
    ]
    return {min(round(epoch * steps / length), steps - 1): kind for epoch, kind in sorted(begins)}
