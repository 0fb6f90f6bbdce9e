"""Base of SET, RigL and their variations: drop by magnitude, grow by a score."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_in_unit, check_not_negative
from baselines.fields import changed
from baselines.method import Method, Options
from baselines.samples import Samples
from baselines.tools.collapse import set_initial_masks
from baselines.tools.masks import drop_and_grow, random_masks
from baselines.tools.schedules import cosine_fraction, is_update

MOST_REPLACED = 0.1  # of the optimizer's steps, without a warning
MOST_COUNTED = 1000  # steps; those after it are like them


@dataclass(frozen=True)
class DynamicOptions(Options):
    density: Literal["erk", "balanced", "uniform", "uniform-dense-first"] = "erk"
    """How many weights each layer keeps."""
    updates: int = 250
    """Number of updates; fewer if they would be less than 25 steps apart."""
    update_every: int = changed(0, before=100)
    """ΔT in steps, in place of `updates`; less in a training with less than 10 periods."""
    drop_fraction: float = 0.3
    """α: fraction of a layer's weights that updates replace at first."""
    update_until: float = 0.75
    """Fraction of the steps after which masks are constant."""

    def __post_init__(self) -> None:
        check_not_negative(updates=self.updates, update_every=self.update_every)
        check_in_unit(drop_fraction=self.drop_fraction, update_until=self.update_until)


D = TypeVar("D", bound=DynamicOptions)


class DynamicMask(Method[D], ABC):
    """Base of methods that drop by magnitude and grow by a score."""

    family = "dynamic sparse"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        plan = self.plan
        masks = random_masks(self.options.density, net.shapes, plan.sparsity, plan.seed)
        set_initial_masks(self.name, net, masks, samples)

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
        """Replace the weakest weights of every layer that changes."""
        fraction = self.drop_fraction(step)
        net.set_masks(
            {
                layer.name: drop_and_grow(
                    layer.weight.detach(), mask, self.growth(layer, step), fraction
                )
                for layer, mask in self.changing(net, step)
            }
        )

    def changing(self, net: SparseModel, step: int) -> list[tuple[Layer, Tensor]]:
        """Return the layers that an update changes, with their masks: those that are not dense."""
        return [(layer, mask) for layer in net if (mask := layer.mask) is not None]

    @abstractmethod
    def growth(self, layer: Layer, step: int) -> Tensor:
        """Return non-negative scores of the weight's shape; the largest grow."""


def warn_of_replaced_steps(
    name: str, steps: int, is_update: Callable[[int], bool], advice: str
) -> None:
    """Warn if updates replace more than a tenth of the optimizer's steps of a method.

    Args:
        steps: number of steps of the training.
        is_update: whether an update replaces a step.
        advice: what to do, at the end of the warning.
    """
    first = min(steps, MOST_COUNTED)
    replaced = sum(map(is_update, range(first)))
    if replaced > MOST_REPLACED * first:
        warnings.warn(
            f"{name}: updates replace {replaced} of the first {first} optimizer steps: {advice}",
            stacklevel=2,
        )
