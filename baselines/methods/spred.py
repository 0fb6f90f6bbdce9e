"""spred: L1 by two factors and weight decay.

Ziyin & Wang 2023 (arXiv 2210.01212). With θ = m ⊙ w, the minimum of the weight decay
λ/2·(m² + w²) over all factors of θ is the penalty λ|θ|, but it is smooth: plain SGD solves the
lasso. Meanwhile the smallest weights of each layer are pruned, once per epoch along GMP's cubic.
Then the rest is fine-tuned.

Differs from the official code: the factors start (almost) balanced, m² − w² = `balance`, which is
the code's "sqrt" initialisation (its default draws both at random), so that the initial network is
that of dense training. Pruned weights stay pruned (in theirs, gradual pruning zeroes one factor
only, so that they grow back until the next epoch). λ ends with the last pruning (theirs: with the
training). It is added to the gradients of the factors, on top of the recipe's decay of factors
(`--sign-in-weight-decay`, `--frobenius-decay`), which replaces its weight decay; AdamW subtracts
that one from the factors, but divides λ's part by the size of the gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from baselines.engine.sparse_model import SparseModel
from baselines.engine.storage import DecayedLatents
from baselines.errors import check_fraction, check_not_negative, check_positive
from baselines.fields import changed
from baselines.method import Method, Options
from baselines.registry import register
from baselines.tools.masks import global_masks, scope_masks
from baselines.tools.schedules import cubic_sparsity, events


@dataclass(frozen=True)
class FactorDecayOptions(Options):
    factor_decay: float = 1e-3
    """λ: gradient λm on m and λw on w, until pruning."""
    prune_at: float = 0.7
    """When pruning is complete, as a fraction of the steps."""

    def __post_init__(self) -> None:
        check_not_negative(factor_decay=self.factor_decay)
        check_fraction(prune_at=self.prune_at)


@dataclass(frozen=True)
class SpredOptions(FactorDecayOptions):
    balance: float = 0.01
    """Initial β = m² − w²; with 0, zeros could not be trained. With Sign-In, its β replaces it."""
    pruning: Literal["gradual", "once"] = changed("gradual", before="once")
    """Prune once per epoch from `prune_from` on along GMP's cubic, or only at `prune_at`."""
    prune_from: float = 0.2
    """When gradual pruning starts, as a fraction of the steps; at the latest at `prune_at`."""
    scope: Literal["layer", "global"] = changed("layer", before="global")
    """The same sparsity in every layer, or one threshold for the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(prune_from=self.prune_from)
        check_positive(balance=self.balance)


F = TypeVar("F", bound=FactorDecayOptions)


class FactorDecay(Method[F]):
    """Base of methods that decay both factors and prune by magnitude."""

    family = "dense to sparse"
    factorised = True

    def setup(self, net: SparseModel) -> None:
        self.storage = DecayedLatents(net.storage)
        if self.options.factor_decay:
            self.storage.added_decays += (self.name,)
        net.storage = self.storage

    @property
    def events(self) -> tuple[int, ...]:
        """Steps before which weights are pruned."""
        return (int(self.options.prune_at * self.plan.steps),)

    def before_step(self, net: SparseModel, step: int) -> None:
        self.storage.decay = self.factor_decay(step) if step < self.events[-1] else 0.0
        if step in self.events:
            i, n = self.events.index(step) + 1, len(self.events)
            self.prune(net, cubic_sparsity(i, n, self.plan.sparsity))

    def prune(self, net: SparseModel, sparsity: float) -> None:
        """Prune the network to a sparsity."""
        net.set_masks(global_masks(net.magnitudes(), sparsity))

    def factor_decay(self, step: int) -> float:
        """Return the decay of the factors at a step before pruning is complete."""
        return self.options.factor_decay

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.storage.decay}  # of the step that has begun

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.storage.decay = state.get("decay", 0.0)


@register
class Spred(FactorDecay[SpredOptions]):
    """Sparsity by redundant factors and weight decay."""

    name = "spred"
    paper = "Ziyin & Wang 2023"

    @property
    def inner_scaling(self) -> float | None:
        return self.options.balance

    @property
    def events(self) -> tuple[int, ...]:
        if self.options.pruning == "once":
            return super().events
        end, plan = self.options.prune_at, self.plan
        begin = min(self.options.prune_from, end)
        epochs = round((end - begin) * plan.steps / plan.steps_per_epoch)
        return events(begin, end, epochs + 1, plan.steps)

    def prune(self, net: SparseModel, sparsity: float) -> None:
        net.set_masks(scope_masks(net.magnitudes(), sparsity, self.options.scope))
