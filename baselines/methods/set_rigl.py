"""SET and RigL: dynamic masks that grow at random, or where the dense gradient is largest.

At every update each layer drops the smallest of its active weights and grows as many elsewhere. The
drop fraction anneals along a cosine. New weights start at zero with cleared momentum; a weight that
is dropped and grown in one update keeps both. Ties are broken by index, not by noise.

`set`: Mocanu et al. 2018 (arXiv 1707.04780), as implemented in RigL's code. It grows at random,
after the optimizer's step. Differs from the original: it drops by magnitude (not the smallest
positive and the largest negative weights), and the drop fraction anneals as for RigL.

`rigl`: Evci et al. 2020 (arXiv 1911.11134). It grows by |∂L/∂θ| at all positions, masked or not,
and the update replaces the optimizer's step. The number of updates is that of the official ImageNet
training, 25,000 steps with ΔT = 100, so that ΔT scales with batch size and length of a training.
Differs from the official code: the first update is at step ΔT, as in the paper (theirs is at step
0), and the drop fraction anneals from there over the span of the updates. Growth ranks the absolute
value of the gradient's mean over ranks; both PyTorch ports rank the mean of the absolute values,
which differs for noisy gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.errors import require
from baselines.fields import changed
from baselines.method import Method, Options
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.masks import drop_and_grow, random_masks, seeded
from baselines.tools.schedules import cosine_fraction, is_update


@dataclass(frozen=True)
class DynamicOptions(Options):
    density: Literal["erk", "balanced", "uniform", "uniform-dense-first"] = "erk"
    """How many weights each layer keeps."""
    updates: int = 250
    """Number of updates; fewer if they would be less than 25 steps apart."""
    update_every: int = changed(0, before=100)
    """ΔT in steps, in place of `updates`; less in a training with less than 10 periods."""
    drop_fraction: float = 0.3
    """α: fraction of a layer's weights that the first update replaces."""
    update_until: float = 0.75
    """Fraction of the steps after which masks are constant."""

    def __post_init__(self) -> None:
        for name in ("updates", "update_every"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative, not {value}.")
        fractions = 0 <= self.drop_fraction <= 1 and 0 <= self.update_until <= 1
        require(fractions, "drop_fraction and update_until must be in [0, 1].")


@dataclass(frozen=True)
class RigLOptions(DynamicOptions):
    keep_step: bool = False
    """Step the optimizer at updates too, as SET does."""


D = TypeVar("D", bound=DynamicOptions)
R = TypeVar("R", bound=RigLOptions)


class DynamicMask(Method[D], ABC):
    """Base of methods that drop by magnitude and grow by a score."""

    family = "dynamic sparse"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        net.set_masks(
            random_masks(self.options.density, net.shapes, self.plan.sparsity, self.plan.seed)
        )

    @property
    def end(self) -> float:
        """Step from which masks are constant."""
        return self.options.update_until * self.plan.steps

    def is_update(self, step: int) -> bool:
        """Return whether masks are updated at a step."""
        return is_update(step, self.end, self.options.updates, self.options.update_every)

    def drop_fraction(self, step: int) -> float:
        """Return the fraction of weights that an update at a step replaces."""
        return cosine_fraction(step, self.end, self.options.drop_fraction)

    def update(self, net: SparseModel, step: int) -> None:
        """Replace the weakest weights of every layer that is not dense."""
        fraction = self.drop_fraction(step)
        net.set_masks(
            {
                layer.name: drop_and_grow(
                    layer.weight.detach(), mask, self.growth(layer, step), fraction
                )
                for layer in net
                if (mask := layer.mask) is not None
            }
        )

    @abstractmethod
    def growth(self, layer: Layer, step: int) -> Tensor:
        """Return non-negative scores of the weight's shape; the largest grow."""


class GradientGrowth(DynamicMask[R]):
    """Base of methods that grow by gradient, in place of the optimizer's step."""

    def after_backward(self, net: SparseModel, step: int) -> bool:
        if not self.is_update(step):
            return False
        self.update(net, step)
        return not self.options.keep_step

    def growth(self, layer: Layer, step: int) -> Tensor:
        """Return |∂L/∂θ|. DDP has averaged the signed gradient over ranks."""
        grad = layer.weight.grad
        assert grad is not None
        return grad.abs()


@register
class Set(DynamicMask[DynamicOptions]):
    """Dynamic sparse training with random growth."""

    name = "set"
    paper = "Mocanu et al. 2018"

    def after_step(self, net: SparseModel, step: int) -> None:
        if self.is_update(step):
            self.update(net, step)

    def growth(self, layer: Layer, step: int) -> Tensor:
        """Return uniformly random scores, equal on all ranks."""
        generator = seeded(self.plan.seed, step, layer.name)
        return torch.rand(layer.weight.shape, generator=generator).to(layer.weight.device)


@register
class RigL(GradientGrowth[RigLOptions]):
    """Dynamic sparse training with growth by gradient."""

    name = "rigl"
    paper = "Evci et al. 2020"
