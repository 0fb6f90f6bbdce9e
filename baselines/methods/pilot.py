"""PILoT: a time-varying L1 by the mirror flow of two factors.

Jacobs & Burkholz 2025 (arXiv 2408.09966). θ = m ⊙ w with initially m² − w² = β = 1, as in Sign-In,
and a decay α_k on both factors. The implicit bias changes from L2 to L1 as the decay reduces β to
β·exp(−2·Σ lr·α / (1 − momentum)) (SGD, without gradient noise). Then the smallest weights are
pruned.

α is multiplied by `growth` per epoch of 100 in the first half of the training, and divided by it in
the second. Differs from the paper's Algorithm 1: there α grows only while training accuracy
improves and ‖θ‖₁ is above a bound K that is not stated, and nothing is pruned. The first version of
the paper keeps α constant (`growth=1`). There, the weight decay of 1e-4 acts on the factors, too;
here it acts on θ with SGD, unless `sign_in_decays` is "factors".
"""

from __future__ import annotations

from dataclasses import dataclass

from baselines.errors import check_positive
from baselines.methods.spred import FactorDecay, FactorDecayOptions
from baselines.registry import register


@dataclass(frozen=True)
class PilotOptions(FactorDecayOptions):
    factor_decay: float = 3e-4
    """Initial α: gradient αm on m and αw on w, until pruning."""
    growth: float = 1.01
    """Factor on α per epoch of 100, in the first half; its inverse in the second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(growth=self.growth)


@register
class Pilot(FactorDecay[PilotOptions]):
    """Parametric implicit lottery ticket."""

    name = "pilot"
    paper = "Jacobs & Burkholz 2025"

    def factor_decay(self, step: int) -> float:
        percent = 100 * step // self.plan.steps
        exponent = min(percent, 100 - percent)
        return float(self.options.factor_decay * self.options.growth**exponent)
