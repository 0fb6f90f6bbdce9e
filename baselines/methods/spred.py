"""spred: L1 by two factors and weight decay.

Ziyin & Wang 2023 (arXiv 2210.01212). With θ = m ⊙ w, the minimum of the weight decay
λ/2·(m² + w²) over all factors of θ is the penalty λ|θ|, but it is smooth: plain SGD solves the
lasso. Then the smallest weights are pruned, and the rest is fine-tuned.

Differs from the official code: the factors start (almost) balanced, m² − w² = `balance`, which is
the code's "sqrt" initialisation (its default draws both at random), so that the initial network is
that of dense training. Pruning applies one global threshold, once, at exactly the requested
sparsity (theirs: a fixed threshold, or the same fraction of each layer), and pruned weights stay
pruned (theirs grow back, because only one factor is zeroed). λ is added to the recipe's decay of
factors (`--sign-in-weight-decay`, `--frobenius-decay`), which replaces its weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import DecayedLatents
from baselines.errors import UserError
from baselines.method import Method, Options
from baselines.registry import register
from baselines.tools.masks import global_masks


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
    """Initial β = m² − w²; with 0, zeros could not be trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.balance > 0:
            raise UserError(f"balance must be positive, not {self.balance}.")


F = TypeVar("F", bound=FactorDecayOptions)


class FactorDecay(Method[F]):
    """Base of methods that decay both factors, then prune once by magnitude."""

    family = "dense to sparse"
    factorised = True

    def setup(self, net: SparseModel) -> None:
        self.storage = DecayedLatents(net.storage)
        net.storage = self.storage

    def before_step(self, net: SparseModel, step: int) -> None:
        prune_at = int(self.options.prune_at * self.plan.steps)
        self.storage.decay = self.factor_decay(step) if step < prune_at else 0.0
        if step == prune_at:
            net.set_masks(global_masks(net.magnitudes(), self.plan.sparsity))

    def factor_decay(self, step: int) -> float:
        """Return the decay of the factors at a step before pruning."""
        return self.options.factor_decay


@register
class Spred(FactorDecay[SpredOptions]):
    """Sparsity by redundant factors and weight decay."""

    name = "spred"
    paper = "Ziyin & Wang 2023"

    @property
    def inner_scaling(self) -> float | None:
        return self.options.balance
