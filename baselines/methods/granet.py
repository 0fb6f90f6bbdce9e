"""GraNet: gradual magnitude pruning, with regrowth of as many weights by gradient.

Liu et al. 2021 (arXiv 2106.10404). At an update, after the optimizer's step, the smallest weights
of the whole network are pruned to the sparsity s_i + (s − s_i)·(1 − (1 − i/n)³) after the i-th of n
prunings. Then each layer drops ⌈r·k⌉ of its k weights, the smallest, and grows as many elsewhere,
where |∂L/∂θ| is largest. r anneals along a cosine from `regrowth` to 0.005 at the end; after the
n-th pruning, updates regrow only. Weights that were masked start at zero with cleared momentum.

The paper has 62 updates, the first half of which prune (CIFAR: every 1,000 of 62,560 steps, to
epoch 80 of 160), from a random ERK mask with s_i = 0.5, or a dense network (`initial_sparsity=0`).

Differs from the official code: an n-th pruning reaches the requested sparsity (theirs stops after
n − 1), masks have exact numbers of ones, and no update follows the last step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_at_least, check_inside_unit, check_positive, require
from baselines.method import Method, Options, Plan
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.collapse import set_initial_masks
from baselines.tools.density import check_initial_sparsity
from baselines.tools.masks import global_masks, random_masks, replaced
from baselines.tools.schedules import (
    LEAST_PERIODS,
    SHORTEST_PERIOD,
    cosine_fraction,
    cubic_sparsity,
)
from baselines.tools.scores import gradient_magnitudes

LAST_REGROWTH = 0.005


@dataclass(frozen=True)
class RegrowthOptions(Options):
    density: Literal["erk", "balanced", "uniform"] = "erk"
    """How many weights each layer has at initialisation."""
    updates: int = 62
    """Number of periods between updates; fewer in short trainings (of 25 steps, or 10 periods)."""
    regrowth: float = 0.5
    """r: fraction of a layer's weights that updates replace at first."""

    def __post_init__(self) -> None:
        check_positive(updates=self.updates)
        allowed = LAST_REGROWTH <= self.regrowth <= 1
        require(allowed, f"regrowth must be in [{LAST_REGROWTH}, 1], not {self.regrowth}.")


@dataclass(frozen=True)
class GraNetOptions(RegrowthOptions):
    initial_sparsity: float = 0.5
    """s_i: sparsity at initialisation; 0 starts from a dense network."""
    prune_until: float = 0.5
    """Fraction of the steps after which updates regrow only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(2, updates=self.updates)
        check_initial_sparsity(self.initial_sparsity)
        check_inside_unit(prune_until=self.prune_until)


G = TypeVar("G", bound=RegrowthOptions)


class Regrowth(Method[G]):
    """Base of methods that drop by magnitude and grow by gradient, after the optimizer's step."""

    family = "dynamic sparse"

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.growth: dict[str, Tensor] = {}  # |∂L/∂θ|, from the backward pass to the update
        most = max(LEAST_PERIODS, plan.steps // SHORTEST_PERIOD)
        self.period = max(1, plan.steps // min(self.options.updates, most))
        self.initial_sparsity = plan.sparsity
        self.end: float = plan.steps  # no update follows this step

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        if self.initial_sparsity:
            plan, shapes = self.plan, net.shapes
            masks = random_masks(self.options.density, shapes, self.initial_sparsity, plan.seed)
            set_initial_masks(self.name, net, masks, samples)

    def needs_dense_gradients(self, step: int) -> bool:
        return self.is_update(step)

    reads_gradients = needs_dense_gradients

    def after_backward(self, net: SparseModel, step: int) -> bool:
        if self.is_update(step):
            self.growth = gradient_magnitudes(net.weights)
        return False

    def after_step(self, net: SparseModel, step: int) -> None:
        if self.is_update(step):
            self.prune(net, (step + 1) // self.period)
            net.set_masks(self.regrown(net, self.regrowth(step)))
            self.growth = {}

    def prune(self, net: SparseModel, i: int) -> None:
        """Prune the network before the i-th update, counted from 1. Does nothing by default."""

    def is_update(self, step: int) -> bool:
        """Return whether masks are updated after a step."""
        return (step + 1) % self.period == 0 and step + 1 < self.end

    def regrowth(self, step: int) -> float:
        """Return the fraction of weights that an update after a step replaces."""
        span = self.options.regrowth - LAST_REGROWTH
        return LAST_REGROWTH + cosine_fraction(step + 1, self.plan.steps, span)

    def regrown(self, net: SparseModel, fraction: float) -> dict[str, Tensor]:
        """Return masks with as many ones in each layer, a fraction of them in new positions."""
        masks = net.masks
        drops = {name: math.ceil(fraction * int(mask.sum())) for name, mask in masks.items()}
        return {
            name: replaced(net.weights[name].detach(), masks[name], growth, drops[name])
            for name, growth in self.growth.items()
        }


@register
class GraNet(Regrowth[GraNetOptions]):
    """Gradual pruning with regrowth by gradient."""

    name, paper = "granet", "Liu et al. 2021"

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.prunings = max(1, int(self.options.prune_until * plan.steps / self.period))
        if plan.steps > 1:  # else no update prunes
            self.initial_sparsity = min(self.options.initial_sparsity, plan.sparsity)

    def prune(self, net: SparseModel, i: int) -> None:
        if i <= self.prunings:
            net.set_masks(global_masks(net.magnitudes(), self.sparsity(i)))

    def sparsity(self, i: int) -> float:
        """Return the sparsity after the i-th pruning, from 1 to `prunings`."""
        return cubic_sparsity(i, self.prunings, self.plan.sparsity, self.initial_sparsity)
