"""SET and RigL: dynamic masks that grow at random, or where the dense gradient is largest.

At every update each layer drops the smallest of its active weights and grows as many elsewhere. The
drop fraction anneals along a cosine. New weights start at zero with cleared momentum; a weight that
is dropped and grown in one update keeps both. Ties are broken by index, not by noise.

`set`: Mocanu et al. 2018 (arXiv 1707.04780), as implemented in RigL's code. It grows at random,
after the optimizer's step. Differs from the original: it drops by magnitude (not the smallest
positive and the largest negative weights), and the drop fraction anneals as for RigL, unless
`anneal` is off.

`rigl`: Evci et al. 2020 (arXiv 1911.11134). It grows by |∂L/∂θ| at all positions, masked or not,
and the update replaces the optimizer's step. The number of updates is that of the official ImageNet
training, 25,000 steps with ΔT = 100, so that ΔT scales with batch size and length of a training.
Differs from the official code: the first update is at step ΔT, as in the paper (theirs is at step
0), and an update counts as a step (theirs does not, so that their optimizer takes all steps).
Growth ranks the absolute value of the gradient's mean over ranks; both PyTorch ports rank the mean
of the absolute values, which differs for noisy gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from baselines.engine.layer import Layer
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.methods.dynamic import DynamicMask, DynamicOptions, warn_of_replaced_steps
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.masks import seeded


@dataclass(frozen=True)
class SetOptions(DynamicOptions):
    anneal: bool = True
    """Anneal the drop fraction along a cosine, as RigL; else it is constant, as in the original."""


@dataclass(frozen=True)
class RigLOptions(DynamicOptions):
    keep_step: bool = False
    """Step the optimizer at updates too, as SET does."""


R = TypeVar("R", bound=RigLOptions)


class GradientGrowth(DynamicMask[R]):
    """Base of methods that grow by gradient, in place of the optimizer's step."""

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        self.warn_of_replaced_steps()
        super().prepare(net, samples)

    def warn_of_replaced_steps(self) -> None:
        """Warn if updates replace more than a tenth of the optimizer's steps."""
        if not self.options.keep_step:
            advice = "train for more steps, use fewer updates, or set keep_step."
            warn_of_replaced_steps(self.name, self.plan.steps, self.is_update, advice)

    def needs_dense_gradients(self, step: int) -> bool:
        return self.is_update(step)

    reads_gradients = needs_dense_gradients

    def after_backward(self, net: SparseModel, step: int) -> bool:
        if not self.is_update(step) or all(layer.weight.grad is None for layer in net):
            return False  # also where the loop has left out a backward pass
        self.update(net, step)
        return not self.options.keep_step

    def changing(self, net: SparseModel, step: int) -> list[tuple[Layer, Tensor]]:
        """Leave out layers without a gradient, such as those that were frozen since.

        Raises:
            UserError: a layer has none at the first update: the model does not use it.
        """
        found = super().changing(net, step)
        missing = [layer.name for layer, _ in found if layer.weight.grad is None]
        if missing and not any(map(self.is_update, range(step))):
            raise UserError(f"{self.name} grows by gradient: exclude {missing[0]}, which has none.")
        return [(layer, mask) for layer, mask in found if layer.weight.grad is not None]

    def growth(self, layer: Layer, step: int) -> Tensor:
        """Return |∂L/∂θ|. DDP has averaged the signed gradient over ranks."""
        assert layer.weight.grad is not None  # see `changing`
        return layer.weight.grad.abs()


@register
class Set(DynamicMask[SetOptions]):
    """Dynamic sparse training with random growth."""

    name = "set"
    paper = "Mocanu et al. 2018"

    def drop_fraction(self, step: int) -> float:
        return super().drop_fraction(step) if self.options.anneal else self.options.drop_fraction

    def after_step(self, net: SparseModel, step: int) -> None:
        if self.is_update(step):
            self.update(net, step)

    def growth(self, layer: Layer, step: int) -> Tensor:
        """Return uniformly random scores, equal on all ranks."""
        generator = seeded(self.plan.seed, step, layer.name)
        scores = torch.rand(layer.weight.shape, generator=generator, device="cpu")
        return scores.to(layer.weight.device)


@register
class RigL(GradientGrowth[RigLOptions]):
    """Dynamic sparse training with growth by gradient."""

    name = "rigl"
    paper = "Evci et al. 2020"
