"""MEST: dynamic masks that drop by magnitude and gradient, and grow at random.

Yuan et al. 2021 (arXiv 2110.14032). At an update each layer keeps its k weights with the largest
|θ| + λ·|∂L/∂θ| and grows others at random, from zero. Layers that the densities leave dense do not
change. The mutation ratio r falls in two steps: to a half after 9/16 of the steps and to zero after
3/4 (epochs 90 and 120 of 160), with an update every 5 of 160 epochs.

Elastic mutation (EM) has k·(1 − r) kept weights and the requested number k after growth. With
`soft_bound` (EM&S) a layer keeps k and grows r·k more, also before the first step, so that it is
denser than requested until the last update, which only prunes.

Differs from the official code: layer-wise densities are ERK by default (theirs: uniform, but for a
dense first and last layer), the first k weights are random (theirs: the largest, of which EM
replaces r·k at random before the first step), masks have exact numbers of ones, new weights start
with cleared momentum (theirs keep it), and |∂L/∂θ| is that of the update's own step (theirs: zero,
as gradients are cleared before).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_in_unit, check_not_negative, check_positive
from baselines.method import Method, Options, Plan
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.collapse import set_initial_masks
from baselines.tools.density import layer_counts
from baselines.tools.masks import random_masks, seeded, top_k_mask
from baselines.tools.schedules import is_update
from baselines.tools.scores import gradient_magnitudes

HALVED, STOPPED = 9 / 16, 3 / 4  # when the mutation ratio falls, as fractions of the steps


@dataclass(frozen=True)
class MestOptions(Options):
    density: Literal["erk", "balanced", "uniform"] = "erk"
    """How many weights each layer keeps."""
    mutation: float = 0.2
    """r: fraction of a layer's weights that the first updates replace, or add with `soft_bound`."""
    soft_bound: bool = False
    """Keep more weights than requested until the last update (EM&S)."""
    gradient_weight: float = 0.0
    """λ of |∂L/∂θ| in the score of weights to keep."""
    updates: int = 23
    """Number of updates, evenly spaced; fewer if they would be less than 25 steps apart."""

    def __post_init__(self) -> None:
        check_in_unit(mutation=self.mutation)
        check_positive(updates=self.updates)
        check_not_negative(gradient_weight=self.gradient_weight)


@register
class Mest(Method[MestOptions]):
    """Dynamic sparse training by elastic mutation."""

    name = "mest"
    family = "dynamic sparse"
    paper = "Yuan et al. 2021"

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.gradients: dict[str, Tensor] = {}  # |∂L/∂θ|, from the backward pass to the update
        self.last = int(STOPPED * plan.steps)

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        plan = self.plan
        masks = random_masks(self.options.density, net.shapes, plan.sparsity, plan.seed)
        set_initial_masks(self.name, net, masks, samples)
        if self.options.soft_bound:
            self.grow(net, self.changes(net, step=0), step=0)

    def needs_dense_gradients(self, step: int) -> bool:
        return False  # only those of active weights count

    def reads_gradients(self, step: int) -> bool:
        return self.options.gradient_weight > 0 and self.is_update(step)

    def after_backward(self, net: SparseModel, step: int) -> bool:
        if self.reads_gradients(step):
            self.gradients = gradient_magnitudes(net.weights)
        return False

    def after_step(self, net: SparseModel, step: int) -> None:
        if self.is_update(step):
            counts, changes = self.counts(net), self.changes(net, step)
            drops = {name: 0 if self.options.soft_bound else n for name, n in changes.items()}
            net.set_masks(
                {
                    name: self.kept(net, name, mask, counts[name] - drops[name])
                    for name, mask in net.masks.items()
                }
            )
            self.grow(net, changes, step)
            self.gradients = {}

    def counts(self, net: SparseModel) -> dict[str, int]:
        """Return k of each layer."""
        return layer_counts(self.options.density, net.shapes, self.plan.sparsity)

    def changes(self, net: SparseModel, step: int) -> dict[str, int]:
        """Return how many weights each layer grows at an update."""
        return {
            name: int(k * self.mutation(step)) if k < net.weights[name].numel() else 0
            for name, k in self.counts(net).items()
        }

    def grow(self, net: SparseModel, changes: dict[str, int], step: int) -> None:
        """Let weights grow at random."""
        masks = net.masks
        net.set_masks({name: self.grown(masks[name], n, name, step) for name, n in changes.items()})

    def is_update(self, step: int) -> bool:
        """Return whether masks are updated after a step."""
        return step == self.last or is_update(step, self.last, self.options.updates)

    def mutation(self, step: int) -> float:
        """Return r at an update."""
        if step >= self.last:
            return 0.0
        halved = step >= HALVED * self.plan.steps
        return self.options.mutation / 2 if halved else self.options.mutation

    def kept(self, net: SparseModel, name: str, mask: Tensor, count: int) -> Tensor:
        """Return a mask of a layer's active weights with the largest scores."""
        scores = net.weights[name].detach().abs()
        if name in self.gradients:
            scores = scores + self.options.gradient_weight * self.gradients[name]
        return top_k_mask(scores.masked_fill(~mask, -1.0), count)

    def grown(self, mask: Tensor, count: int, name: str, step: int) -> Tensor:
        """Return a mask with up to `count` more ones, drawn at random, equal on all ranks."""
        generator = seeded(self.plan.seed, step, name)
        drawn = torch.rand(mask.shape, generator=generator, device="cpu")
        free = mask.numel() - int(mask.sum())
        return mask | top_k_mask(drawn.to(mask.device).masked_fill(mask, -1.0), min(count, free))
