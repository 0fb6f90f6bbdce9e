"""Levels of iterative pruning: how sparse each is, when it starts, and its learning-rate cycles."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Levels:
    """Consecutive trainings, each at a higher sparsity.

    Attributes:
        sparsities: sparsity of each level.
        length: number of steps of a cycle's learning-rate schedule.
        skipped: number of first steps that all levels except the first one skip; less than
            `length`.
        cycles: number of cycles of a level.
    """

    sparsities: tuple[float, ...]
    length: int
    skipped: int = 0
    cycles: int = 1

    @property
    def steps(self) -> int:
        """Number of steps of all levels together."""
        later = len(self.sparsities) - 1
        return self._level + later * (self._level - self.skipped)

    def place(self, step: int) -> int:
        """Return the place of a step in the schedule of its cycle."""
        _, at = self._place(step)
        return at % self.length

    def pruned_before(self, step: int) -> float | None:
        """Return the sparsity to prune to before a step; None inside a level."""
        level, at = self._place(step)
        return self.sparsities[level] if level and at == self.skipped else None

    def restarts_before(self, step: int) -> bool:
        """Return whether a cycle begins with a step, except for the first one of a level."""
        _, at = self._place(step)
        return at > 0 and at % self.length == 0

    @property
    def _level(self) -> int:
        return self.cycles * self.length

    def _place(self, step: int) -> tuple[int, int]:
        """Return the level of a step, and its place in the level."""
        if step < self._level:
            return 0, step
        level, at = divmod(step - self._level, self._level - self.skipped)
        return level + 1, at + self.skipped


def level_sparsities(target: float, keep: float, initial: float = 0.0) -> tuple[float, ...]:
    """Return the sparsity of each level, from `initial` to `target`.

    Args:
        target: sparsity of the last level, at least `initial`.
        keep: fraction of the weights that each level keeps.
        initial: sparsity of the first level; 0 for 0, 1 − keep, 1 − keep², …
    """
    ratio = (1 - target) / (1 - initial)
    levels = math.ceil(math.log(ratio) / math.log(keep) - 1e-9) if ratio < 1 else 0
    return (*(1 - (1 - initial) * keep**i for i in range(levels)), target)


def rewind_epoch(fraction: float, epochs: int) -> int:
    """Return the epoch of a level to rewind to: 0 only for fraction 0, and never the last one."""
    epoch = max(1, round(fraction * epochs)) if fraction else 0
    return min(epoch, epochs - 1)
