"""PILoT: a time-varying L1 by the mirror flow of two factors.

Jacobs & Burkholz 2025 (arXiv 2408.09966). θ = m ⊙ w with m² − w² = β = 1 at first, as in Sign-In,
and decay α_k on both factors. Training drifts from L2-like to L1-like as the decay takes β to
β·exp(−2·Σ lr·α) (without gradient noise). Then the smallest weights are pruned.

α grows by `growth` an epoch over the first half of the training and falls as fast over the second.
Differs from the paper's Algorithm 1: there α grows only while training accuracy improves and ‖θ‖₁
is above a bound K that is not stated. The first version of the paper keeps α constant (`growth=1`).
"""

from __future__ import annotations

from dataclasses import dataclass

from baselines.errors import UserError
from baselines.methods.spred import FactorDecayOptions, Spred


@dataclass(frozen=True)
class PilotOptions(FactorDecayOptions):
    factor_decay: float = 3e-4
    """α at first: gradient αm on m and αw on w, until pruning."""
    growth: float = 1.01
    """Factor on α from epoch to epoch of 100, in the first half; its inverse in the second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.growth > 0:
            raise UserError(f"growth must be positive, not {self.growth}.")


class Pilot(Spred):
    """Parametric implicit lottery ticket."""

    name = "pilot"
    paper = "Jacobs & Burkholz 2025"
    options = PilotOptions

    @property
    def inner_scaling(self) -> float | None:
        return None

    def factor_decay(self, step: int) -> float:
        percent = 100 * step // self.plan.steps
        exponent = min(percent, 100 - percent)
        return float(self.opt.factor_decay * self.opt.growth**exponent)
