"""Levels of iterative pruning: how sparse each is, and when it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Levels:
    """Consecutive trainings, each at a higher sparsity.

    Attributes:
        sparsities: sparsity of each level; the first one is dense.
        length: number of steps of a level's learning-rate schedule.
        skipped: number of steps at its start that all levels but the first one leave out.
    """

    sparsities: tuple[float, ...]
    length: int
    skipped: int = 0

    @property
    def steps(self) -> int:
        """Number of steps of all levels together."""
        return self.length + (len(self.sparsities) - 1) * (self.length - self.skipped)

    def place(self, step: int) -> tuple[int, int]:
        """Return the level of a step, and its place in the level's schedule."""
        if step < self.length:
            return 0, step
        level, within = divmod(step - self.length, self.length - self.skipped)
        return level + 1, within + self.skipped

    def pruned_before(self, step: int) -> float | None:
        """Return the sparsity to prune to before a step; None inside a level."""
        level, within = self.place(step)
        return self.sparsities[level] if level and within == self.skipped else None


def level_sparsities(target: float, keep: float) -> tuple[float, ...]:
    """Return 0, 1 − keep, 1 − keep², … and finally the target itself."""
    levels = math.ceil(math.log(1 - target) / math.log(keep) - 1e-9) if target > 0 else 0
    return (*(1 - keep**i for i in range(levels)), target)


def rewind_epoch(fraction: float, epochs: int) -> int:
    """Return the epoch of a level to rewind to: 0 only for fraction 0, and never the last one."""
    epoch = max(1, round(fraction * epochs)) if fraction else 0
    return min(epoch, epochs - 1)
