"""PlannedSteps: how many steps a method plans, and warnings for loops that take another number."""

from __future__ import annotations

import warnings
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from baselines.method import Method, Options
from baselines.target import largest_difference
from baselines.tools.schedules import Factor, triangular


class PlannedSteps:
    """The steps that a method plans, and those that a loop has taken. The base of `Sparsifier`.

    Attributes:
        method: the method, with its options and plan.
        step: number of optimizer steps taken.
        may_go_on: whether a loop takes more steps than planned on purpose, without a warning.
    """

    def __init__(self, method: Method[Options]) -> None:
        self.method, self.step, self.may_go_on = method, 0, False
        self._knows_schedule = False
        self._warned: set[str] = set()

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training; more than planned if it trains in levels."""
        self._knows_schedule = True
        return self.method.total_steps

    @property
    def is_done(self) -> bool:
        """Whether all planned steps have been taken. Masks do not change from then on."""
        return self.step >= self.method.total_steps

    def lr_factor(self, step: int, factor: Factor = triangular) -> float:
        """Return the factor on the peak learning rate at a step.

        Methods that train in levels (LRR, WR, IMP) restart the schedule at every level.

        Args:
            step: from 0 to total_steps − 1.
            factor: takes a step and the number of steps of the schedule.
        """
        self._knows_schedule = True
        return factor(*self.method.schedule(min(step, self.method.total_steps - 1)))

    def lr_scheduler(self, optimizer: Optimizer, factor: Factor = triangular) -> LambdaLR:
        """Return a scheduler that multiplies the learning rates by `lr_factor` at every step."""
        return LambdaLR(optimizer, partial(self.lr_factor, factor=factor))

    # ---- loops that take another number of steps

    def warn_of_levels(self) -> None:
        """Warn if the method trains in levels, and the loop has not asked for its schedule."""
        total = self.method.total_steps
        if total != self.method.plan.steps and not self._knows_schedule:
            warnings.warn(
                f"{self.method.name} trains in levels, {total} steps in all: use "
                "sparsifier.total_steps and sparsifier.lr_scheduler() to reach the sparsity.",
                stacklevel=2,
            )

    def warn_of_end(self, sparsity: float, prunable: int) -> None:
        """Warn, once, if a training that has begun ends early or at another sparsity than planned.

        Steps that a GradScaler skips do not count: a hundredth may be missing if the sparsity is
        met.

        Args:
            sparsity: the sparsity that it has reached.
            prunable: number of prunable weights; a number of zeros is a whole number.
        """
        total, planned = self.method.total_steps, self.method.plan.sparsity
        allowed = largest_difference(planned, self.method.tolerance, prunable)
        if not self.step:
            return
        if self.is_done:
            if abs(sparsity - planned) > allowed:
                self._warn_once(f"the training ended at sparsity {sparsity:.4g}, not {planned:g}.")
        elif sparsity < planned - allowed or self.step < 0.99 * total:
            self._warn_once(
                f"the training ended after {self.step} of {total} planned steps, at sparsity "
                f"{sparsity:.3f}."
            )

    def warn_of_more(self) -> None:
        """Warn, once, that a training takes more steps than planned."""
        if self.may_go_on:
            return
        self._warn_once(
            f"the training goes on after the {self.method.total_steps} planned steps: the masks "
            "stay as they are, and Sign-In's rescaling and HAM have ended."
        )

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            warnings.warn(message, stacklevel=5)
        self._warned.add(message)
