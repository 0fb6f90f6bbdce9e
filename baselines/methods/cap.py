"""CAP: WoodFisher with correlations between the weights that are removed together.

Kuznedelev et al. 2023 (arXiv 2210.09223). Within each block, weights are removed one by one, the
cheapest first. Each removal moves the others and updates the inverse Fisher matrix. Weights of all
blocks are compared by the sum of the costs of their block's removals up to their own: the rise of
the loss. The kept weights move to the minimum of the loss without the removed ones: jointly, not by
a sum of moves as in WoodFisher.

Masks are sensitive to rounding: blocks are counted along the active weights, so one weight swapped
for another shifts all blocks between the two. So all of this is computed in float64. All else, and
the differences from the official code, are as for `woodfisher`. In addition, the official code
computes gradients in evaluation mode, and its sparsity rises linearly in pieces, not along the
cubic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from baselines.fields import changed
from baselines.methods.woodfisher import FisherOptions, FisherPruning
from baselines.registry import register
from baselines.tools.second_order import elimination_costs, inverse_fisher, joint_compensation


@dataclass(frozen=True)
class CapOptions(FisherOptions):
    ranking: Literal["sum", "highest"] = changed("sum", before="highest")
    """What ranks a weight: the costs of all removals up to its own, or the highest of them."""


@register
class Cap(FisherPruning[CapOptions]):
    """Correlation-aware gradual pruning."""

    name = "cap"
    paper = "Kuznedelev et al. 2023"

    def costs(self, theta: Tensor, fisher: Tensor) -> Tensor:
        return elimination_costs(theta, inverse_fisher(fisher), self.options.ranking == "sum")

    def compensated(self, theta: Tensor, fisher: Tensor, keep: Tensor) -> Tensor:
        return joint_compensation(theta, fisher, keep)
