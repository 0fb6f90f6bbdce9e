"""Times of alternatives, measured in turn so that other load on the machine affects all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WARM_UP = 2  # rounds that are not counted: the first ones select kernels and fill caches
SECONDS = 0.5  # short works are done in up to `MORE` times as many rounds, until so much time
MORE = 10


@dataclass(frozen=True)
class Times:
    """Times of one alternative.

    Attributes:
        seconds: the median.
        ratio: median over rounds of its time divided by that of the first alternative.
    """

    seconds: float
    ratio: float


Measure = Callable[[Mapping[str, Callable[[], object]], int], dict[str, Times]]


def measure(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Return the times of alternatives, each done once per round in random order.

    Args:
        works: alternatives by name; the first one is the reference.
        rounds: number of rounds that are counted, at least.
    """
    names, order = list(works), random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in names}
    spent, done = 0.0, -WARM_UP
    while done < rounds or (spent < SECONDS and done < MORE * rounds):
        for name in order.sample(names, len(names)):
            began = time.perf_counter()
            works[name]()
            seconds = time.perf_counter() - began
            if done >= 0:
                found[name].append(seconds)
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
