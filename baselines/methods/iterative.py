"""Base of LRR, WR and IMP: train, prune the smallest weights of the network, train again.

Each level keeps `keep` of the weights and lasts whole epochs; the last one is exact.

A level can have several cycles of the learning rate under one mask, and the first level a random
mask (Gadhikar et al. 2024, arXiv 2406.02773; many cycles with a sparse mask and then one pruning is
what they call SCULPT-ing). Every cycle restarts the learning rate and clears momentum, and only
levels rewind weights, as in the code of that paper's group. All cycles have the same length.

With `interpolate_norms`, LRR trains as AWS does ("Find A Winning Sign", Oh et al. 2025, arXiv
2504.05357), whose masks and signs are made for other initialisations; see `tools/norms.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch

from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_finite, check_inside_unit, check_positive, require
from baselines.method import Method, Options, Plan
from baselines.samples import Samples
from baselines.tools.density import check_initial_sparsity
from baselines.tools.levels import Levels, level_sparsities
from baselines.tools.masks import global_masks, random_masks, seeded
from baselines.tools.norms import InterpolatedNorms


@dataclass(frozen=True)
class LevelOptions(Options):
    keep: float = 0.8
    """Fraction of the weights that each level keeps."""
    level_length: float = 1.0
    """Length of each level, as a fraction of the recipe's epochs."""
    reset_optimizer: bool = True
    """Clear momentum at every level and cycle."""
    cycles: int = 1
    """Cycles of the learning rate that share the epochs of each level."""
    initial_sparsity: float = 0.0
    """Sparsity of the first level, with a random mask of balanced densities."""
    interpolate_norms: bool = False
    """At each step, train with normalisation at a random place between its parameters and 1, 0."""

    def __post_init__(self) -> None:
        check_inside_unit(keep=self.keep)
        check_positive(level_length=self.level_length, cycles=self.cycles)
        check_finite(level_length=self.level_length)
        check_initial_sparsity(self.initial_sparsity)


L = TypeVar("L", bound=LevelOptions)


class IterativePruning(Method[L]):
    """Base of methods that train once per level."""

    family = "iterative"
    variants = ({"level_length": 0.25},)
    least_epochs: ClassVar[int] = 1  # of a cycle

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        given = self.options
        check_initial_sparsity(given.initial_sparsity, plan.sparsity)
        epochs = round(given.level_length * plan.epochs / given.cycles)
        self.cycle_epochs = max(self.least_epochs, epochs)
        sparsities = level_sparsities(plan.sparsity, given.keep, given.initial_sparsity)
        steps = self.cycle_epochs * plan.steps_per_epoch
        self.levels = Levels(sparsities, steps, cycles=given.cycles)
        self.norms: InterpolatedNorms | None = None

    def setup(self, net: SparseModel) -> None:
        if self.options.interpolate_norms:
            self.norms = InterpolatedNorms(net.model)

    @property
    def total_steps(self) -> int:
        return self.levels.steps

    def schedule(self, step: int) -> tuple[int, int]:
        return self.levels.place(step), self.levels.length

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        if first := self.options.initial_sparsity:
            net.set_masks(random_masks("balanced", net.shapes, first, self.plan.seed))

    def before_step(self, net: SparseModel, step: int) -> None:
        if self.norms is not None:
            generator = seeded(self.plan.seed, "norms", step)
            self.norms.share = float(torch.rand((), generator=generator, device="cpu"))
        sparsity = self.levels.pruned_before(step)
        if sparsity is not None:
            masks = global_masks(net.magnitudes(), sparsity)
            self.rewind(net)
            net.set_masks(masks)
        restarts = sparsity is not None or self.levels.restarts_before(step)
        if restarts and self.options.reset_optimizer:
            net.clear_state()

    def after_step(self, net: SparseModel, step: int) -> None:
        if step == self.total_steps - 1:
            self.finalize(net)

    def finalize(self, net: SparseModel) -> None:
        if self.norms is not None:
            self.norms.remove()

    def rewind(self, net: SparseModel) -> None:
        """Rewind the weights between two levels. Does nothing by default."""

    def state_dict(self) -> dict[str, Any]:
        return {} if self.norms is None else {"norms": self.norms.share}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved, own = "norms" in state, self.norms is not None  # old states have no options
        require(saved == own, f"the state has interpolate_norms={saved}, not {own}.")
        if self.norms is not None:
            self.norms.share = state["norms"]
