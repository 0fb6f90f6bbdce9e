"""RigL with an N:M mask: of M consecutive weights, N are active at all times.

A variation of RigL (Evci et al. 2020, arXiv 1911.11134) by this suite. As RigL, each layer drops
the smallest of its active weights. Each group of M then grows as many as it lost, where |∂L/∂θ| is
largest, dropped ones included, so that it has N active weights again. Of weights whose gradient is
zero, those that were active stay. All layers have the same sparsity, 1 − N/M. The first mask is
random in each group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from baselines.engine.sparse_model import SparseModel
from baselines.errors import require
from baselines.method import Options, Plan
from baselines.methods.set_rigl import GradientGrowth, RigLOptions
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.masks import TINY, ranking, seeded
from baselines.tools.nm import nm_mask, nm_pattern


@dataclass(frozen=True)
class RigLNmOptions(RigLOptions):
    density: Literal["uniform"] = "uniform"
    """All layers keep the same fraction."""
    m: int = 0
    """M, size of a group; 0 for the smallest one from 4 on that has the sparsity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.m == 0 or self.m >= 2, f"m must be 0 or at least 2, not {self.m}.")


@register
class RigLNm(GradientGrowth[RigLNmOptions]):
    """RigL with N active weights in each group of M."""

    name = "rigl_nm"
    paper = "Evci et al. 2020, a variation"
    tolerance = 0.005

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.n, self.m = nm_pattern(plan.sparsity, self.options.m)

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        self.warn_of_replaced_steps()
        net.require_ordinary("rigl_nm")
        drawn = {
            name: torch.rand(shape, generator=seeded(self.plan.seed, name), device="cpu")
            for name, shape in net.shapes.items()
        }
        net.set_masks({name: nm_mask(scores, self.n, self.m) for name, scores in drawn.items()})

    def update(self, net: SparseModel, step: int) -> None:
        """Replace the weakest weights of every layer within their groups."""
        fraction, masks = self.drop_fraction(step), {}
        for layer, mask in self.changing(net, step):
            ranks = ranking(layer.weight.detach(), mask, self.growth(layer, step), fraction)
            ranks += TINY * mask  # of weights without gradient, active ones stay
            masks[layer.name] = nm_mask(ranks, self.n, self.m)
        net.set_masks(masks)
