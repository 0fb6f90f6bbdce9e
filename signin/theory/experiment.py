"""One setting of the single-neuron experiment: data, initial students, and success rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from baselines.errors import UserError, check_not_negative, check_positive
from signin.theory.neuron import (
    PLAIN,
    DataSet,
    FinalState,
    Population,
    Storages,
    Task,
    sign_in_storages,
    train,
)

#: Signs of a and w₁ at the start, in the paper's order.
CASES = ((1, 1), (-1, 1), (1, -1), (-1, -1))


class Rates(NamedTuple):
    """Fractions of the runs of one sign case."""

    learned: float
    """Final loss below `neuron.SUCCESS`."""
    positive: float
    """Final a > 0."""


@dataclass(frozen=True)
class Setting:
    """The settings that the paper states, and those that it does not state (samples, scale)."""

    width: int = 5
    """d, the number of inputs."""
    betas: tuple[float, float] | None = None
    """β₁ of a and β₂ of w with Sign-In; None without it."""
    samples: int = 1000
    """n; 0 means infinitely many."""
    scale: float = 1.0
    """Standard deviation of the initial w; |a| is the norm of w."""
    rate: float = 0.01
    """η of gradient descent."""
    steps: int = 200_000
    runs: int = 100
    """Initialisations of each sign case. They are equal in all cases except for the signs."""
    cases: tuple[tuple[int, int], ...] = CASES
    """Signs of a and w₁ at the start; 0 leaves the sign of w₁ random."""
    seed: int = 0
    """Seed of the data set that all runs share, and of the initialisations."""
    random_teacher: bool = False
    """Draw the first two entries of w̃ from N(0, 1) for each run, in place of (1, 0, …)."""

    def __post_init__(self) -> None:
        check_positive(width=self.width, scale=self.scale, rate=self.rate)
        check_positive(steps=self.steps, runs=self.runs)
        check_not_negative(samples=self.samples)
        if self.random_teacher and self.width < 2:
            raise UserError("a random teacher has two inputs; width must be 2 or more.")

    @property
    def storages(self) -> Storages:
        return PLAIN if self.betas is None else sign_in_storages(*self.betas)

    @property
    def cost(self) -> float:
        """Relative time. Plain runs that fail take all steps."""
        return self.steps * (self.width > 1) * (1.0 if self.betas is None else 0.5)

    def students(self) -> tuple[Tensor, Tensor]:
        """Return balanced initial a [cases · runs] and w [cases · runs, d]."""
        w = self.scale * self._normal(self.runs, self.width, stream=1)
        inner = w.repeat(len(self.cases), 1)
        signs = torch.tensor(self.cases, dtype=w.dtype).repeat_interleave(self.runs, dim=0)
        given = signs[:, 1] != 0
        inner[given, 0] = signs[given, 1] * inner[given, 0].abs()
        return signs[:, 0] * inner.norm(dim=1), inner

    def task(self) -> Task:
        """Return the data set, labelled by each run's teacher."""
        teachers = torch.zeros(self.runs, self.width, dtype=torch.float64)
        teachers[:, 0] = 1
        if self.random_teacher:
            teachers[:, :2] = self._normal(self.runs, 2, stream=2)
        teachers = teachers.repeat(len(self.cases), 1)
        if not self.samples:
            return Population(teachers)
        return DataSet(self._normal(self.samples, self.width, stream=0), teachers)

    def run(self) -> list[FinalState]:
        """Train the students. Return their final state by sign case."""
        found = train(self.task(), *self.students(), self.storages, self.rate, self.steps)
        parts = zip(*(torch.split(part, self.runs) for part in found), strict=True)
        return [FinalState(*part) for part in parts]

    def measure(self) -> list[Rates]:
        """Return the rates by sign case."""
        return [
            Rates(end.success.double().mean().item(), (end.outer > 0).double().mean().item())
            for end in self.run()
        ]

    def columns(self) -> dict[str, object]:
        """Return the setting as columns of a table."""
        outer, inner = self.betas or (None, None)
        return {
            "d": self.width,
            "beta_a": outer,
            "beta_w": inner,
            "n": self.samples or float("inf"),
            "scale": self.scale,
            "rate": self.rate,
            "steps": self.steps,
            "runs": self.runs,
            "seed": self.seed,
        }

    def _normal(self, *shape: int, stream: int) -> Tensor:
        generator = torch.Generator().manual_seed(10 * self.seed + stream)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)
