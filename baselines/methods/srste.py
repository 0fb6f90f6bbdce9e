"""SR-STE: a dense training whose forward pass uses the N largest of each M weights.

Zhou et al. 2021 (arXiv 2102.04010). θ = S(x) ⊙ x, where the mask S(x) keeps the N largest |x| of
each group of M. The gradient of θ goes to all of x (straight-through estimator), and pruned weights
are refined: x receives ∂L/∂θ + λ·(1 − S(x)) ⊙ x. The mask can change at every step; that of the
last one stays.

N and M follow from the sparsity 1 − N/M: 0.5 is 2:4 and 0.75 is 1:4. Groups are those of the
official convolution (see `baselines.tools.nm`). Differs from the official code: ties are broken by
index, and the classifier is pruned unless it is excluded (theirs keeps it dense, and prunes the
first convolution).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.engine.selected import Selected
from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import Storage, Tensors
from baselines.errors import check_not_negative, require
from baselines.method import Method, Options, Plan
from baselines.registry import register
from baselines.tools.nm import nm_mask, nm_pattern


class Refined(Selected):
    """θ = S(x) ⊙ x, with x kept by another storage.

    Args:
        inner: storage of x.
        n, m: numbers of kept and of all weights of a group.
        decay: λ of the pruned weights.
    """

    def __init__(self, inner: Storage, n: int, m: int, decay: float) -> None:
        super().__init__(inner)
        self.n, self.m, self.decay = n, m, decay

    def mask(self, x: Tensor) -> Tensor:
        """Return S(x). A vector has active weights of a final mask only."""
        if x.ndim == 1:
            return torch.ones_like(x, dtype=torch.bool)
        return nm_mask(x.abs(), self.n, self.m)

    def pull_back(self, grads: Tensors, latents: tuple[Tensors, ...]) -> tuple[Tensors, ...]:
        refined = [
            grad + self.decay * x.masked_fill(self.mask(x), 0.0)
            for grad, x in zip(grads, self.inner.merge(latents), strict=True)
        ]
        return self.inner.pull_back(refined, latents)


@dataclass(frozen=True)
class SrSteOptions(Options):
    m: int = 0
    """M, size of a group; 0 for the smallest one from 4 on that has the sparsity."""
    refine: float = 2e-4
    """λ: decay of pruned weights, on top of the recipe's weight decay."""

    def __post_init__(self) -> None:
        require(self.m == 0 or self.m >= 2, f"m must be 0 or at least 2, not {self.m}.")
        check_not_negative(refine=self.refine)


@register
class SrSte(Method[SrSteOptions]):
    """N:M sparsity from scratch by a sparse-refined straight-through estimator."""

    name = "srste"
    family = "dense to sparse"
    paper = "Zhou et al. 2021"
    tolerance = 0.005

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.n, self.m = nm_pattern(plan.sparsity, self.options.m)

    def setup(self, net: SparseModel) -> None:
        net.require_ordinary("srste")
        net.storage = Refined(net.storage, self.n, self.m, self.options.refine)

    def after_step(self, net: SparseModel, step: int) -> None:
        if step == self.plan.steps - 1:
            scores = {name: weight.detach().abs() for name, weight in net.weights.items()}
            net.set_masks({name: nm_mask(x, self.n, self.m) for name, x in scores.items()})
