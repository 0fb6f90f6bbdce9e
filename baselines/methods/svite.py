"""SViTE: dynamic masks of vision transformers, unstructured.

Chen et al. 2021 (arXiv 2106.04533). At an update, after the optimizer's step, each layer drops
⌈r·k⌉ of its k weights, those with the smallest |θ|, and grows as many elsewhere, where |∂L/∂θ| of
this step is largest. r anneals along a cosine from `regrowth` to 0.005 at the end of the training.
The published settings for DeiT-Small are ERK densities and an update every hundredth of 600 epochs,
up to 80 % of the training.

Differs from the official code: masks have exact numbers of ones, and new weights start with
cleared optimizer state (with AdamW, the moments of theirs have followed the masked gradients).
Structured sparsity (SViTE-S) and the selection of tokens (SViTE+) are not offered.
"""

from __future__ import annotations

from dataclasses import dataclass

from baselines.errors import check_in_unit
from baselines.method import Options, Plan
from baselines.methods.granet import Regrowth, RegrowthOptions
from baselines.registry import register


@dataclass(frozen=True)
class SviteOptions(RegrowthOptions):
    updates: int = 100
    """Number of periods between updates. In a short training they have at least 25 steps, or there
    are 10 of them."""
    update_until: float = 0.8
    """Fraction of the steps after which masks are constant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_in_unit(update_until=self.update_until)


@register
class Svite(Regrowth[SviteOptions]):
    """Dynamic sparse training of vision transformers, unstructured."""

    name = "svite"
    paper = "Chen et al. 2021"

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.end = self.options.update_until * plan.steps
