"""SET: sparse evolutionary training, a dynamic mask that grows at random.

Mocanu et al. 2018 (arXiv 1707.04780), as RigL's code has it. Every so many steps each layer drops
the smallest of its active weights and grows as many elsewhere, at random. The update comes after
the step of the optimizer and does not replace it.

Differs from the original: it drops by magnitude (not the smallest positive and largest negative
weights), and the drop fraction anneals along a cosine, as for RigL. No noise breaks ties: the
index does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Options, Samples
from baselines.tools.density import random_masks, seeded, top_k_mask
from baselines.tools.schedules import cosine_fraction, update_period


@dataclass(frozen=True)
class DynamicOptions(Options):
    density: Literal["erk", "balanced", "uniform"] = "erk"
    """How many weights each layer keeps."""
    update_every: int = 100
    """ΔT, in steps. A short training updates more often, so that it has 10 updates at least."""
    drop_fraction: float = 0.3
    """α: fraction of a layer's weights that the first update replaces."""
    update_until: float = 0.75
    """Fraction of the steps after which the mask stays."""

    def __post_init__(self) -> None:
        if self.update_every < 1:
            raise UserError(f"update_every must be positive, not {self.update_every}.")
        if not 0 <= self.drop_fraction <= 1 or not 0 <= self.update_until <= 1:
            raise UserError("drop_fraction and update_until must be in [0, 1].")


class Set(Method):
    """Dynamic sparse training with random growth."""

    name = "set"
    family = "dynamic sparse"
    paper = "Mocanu et al. 2018"
    options = DynamicOptions

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        net.set_masks(
            random_masks(self.opt.density, net.shapes, self.plan.sparsity, self.plan.seed)
        )

    def after_step(self, net: SparseModel, step: int) -> None:
        if self.is_update(step):
            self.update(net, step)

    @property
    def end(self) -> float:
        """The step from which the mask stays."""
        return float(self.opt.update_until * self.plan.steps)

    def is_update(self, step: int) -> bool:
        period = update_period(self.opt.update_every, self.end)
        return step > 0 and step % period == 0 and step < self.end

    def update(self, net: SparseModel, step: int) -> None:
        """Replaces the weakest weights of every layer that is not full."""
        fraction = cosine_fraction(step, self.end, self.opt.drop_fraction)
        net.set_masks(
            {
                layer.name: drop_and_grow(
                    layer.weight.detach(), mask, self.growth(layer, step), fraction
                )
                for layer in net
                if (mask := layer.mask) is not None
            }
        )

    def growth(self, layer: Layer, step: int) -> Tensor:
        """Scores by which weights grow: uniformly random, equal on all ranks."""
        generator = seeded(self.plan.seed, step, layer.name)
        return torch.rand(layer.weight.shape, generator=generator).to(layer.weight.device)


def drop_and_grow(weight: Tensor, mask: Tensor, growth: Tensor, fraction: float) -> Tensor:
    """The mask after one update; as many ones as before.

    Of the n active weights, int(n·fraction) with the smallest magnitude go; as many come, with the
    largest growth score among all that are not active then. Those that just went may come again.
    """
    n = int(mask.sum())
    drop = int(n * fraction)
    kept = strongest(weight, mask, n - drop)
    return kept | top_k_mask(growth.masked_fill(kept, -1.0), drop)


def strongest(weight: Tensor, mask: Tensor, k: int) -> Tensor:
    """The k active weights with the largest magnitude, as a mask."""
    return top_k_mask(weight.abs().masked_fill(~mask, -1.0), k)
