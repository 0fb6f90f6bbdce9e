"""spred: L1 by two factors and weight decay.

Ziyin & Wang 2023 (arXiv 2210.01212). With θ = m ⊙ w, weight decay λ/2·(m² + w²) on both factors is
at its minimum over them the penalty λ|θ|, but smooth: plain SGD solves the lasso. The smallest
weights are then pruned, and the rest is fine-tuned.

Differs from the official code: the factors begin (almost) balanced, m² − w² = `balance`, which is
the code's own "sqrt" initialisation (its default draws both at random), so that the network begins
as the dense one does; pruning takes one global threshold, once, at exactly the requested sparsity
(theirs: a fixed threshold, or the same fraction of each layer), and what is pruned stays so (there
it grows back, because only one factor is zeroed). λ comes on top of what a recipe has for factors
(`--sign-in-weight-decay`, `--frobenius-decay`), which replaces its weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import DecayedLatents
from baselines.errors import UserError
from baselines.method import Method, Options
from baselines.tools.density import global_top_k_masks, keep_count


@dataclass(frozen=True)
class FactorDecayOptions(Options):
    factor_decay: float = 1e-3
    """λ: gradient λm on m and λw on w, until pruning."""
    prune_at: float = 0.7
    """When to prune, as a fraction of the steps."""

    def __post_init__(self) -> None:
        if self.factor_decay < 0:
            raise UserError(f"factor_decay must not be negative, not {self.factor_decay}.")
        if not 0 <= self.prune_at < 1:
            raise UserError(f"prune_at must be in [0, 1), not {self.prune_at}.")


@dataclass(frozen=True)
class SpredOptions(FactorDecayOptions):
    balance: float = 0.01
    """β = m² − w² to begin with; 0 would leave zeros dead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.balance > 0:
            raise UserError(f"balance must be positive, not {self.balance}.")


class Spred(Method):
    """Sparsity by redundant factors and weight decay."""

    name = "spred"
    family = "dense to sparse"
    paper = "Ziyin & Wang 2023"
    options: ClassVar[type[Options]] = SpredOptions
    factorised = True

    @property
    def inner_scaling(self) -> float | None:
        return float(self.opt.balance)

    def setup(self, net: SparseModel) -> None:
        self.storage = DecayedLatents(net.storage)
        net.storage = self.storage

    def before_step(self, net: SparseModel, step: int) -> None:
        prune_at = int(self.opt.prune_at * self.plan.steps)
        self.storage.decay = self.factor_decay(step) if step < prune_at else 0.0
        if step == prune_at:
            k = keep_count(net.numel, self.plan.sparsity)
            net.set_masks(global_top_k_masks(net.magnitudes(), k))

    def factor_decay(self, step: int) -> float:
        """λ at a step before pruning."""
        return float(self.opt.factor_decay)
