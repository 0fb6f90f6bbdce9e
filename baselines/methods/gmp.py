"""GMP: gradual magnitude pruning with a cubic schedule.

Zhu & Gupta 2017 (arXiv 1710.01878). The smallest weights are pruned at regular intervals, many at
first and ever fewer later: the sparsity after the i-th of n events is s_i = s·(1 − (1 − i/n)³).

Differs from the published codes, which all differ from each other: the last event reaches exactly
the requested sparsity (of 0.9, STR's copy reaches 0.89999, AC/DC's 0.8991, sparsimony's 0.8969),
and pruned weights never return, so that masks are nested. Every layer is pruned to the same
sparsity, as by Zhu & Gupta; `scope="global"` has one threshold for all layers, as AC/DC's code.
`initial_sparsity` is an addition of this suite: it starts the training from a random mask instead
of a dense network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeVar

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError, check_positive
from baselines.fields import changed
from baselines.method import Method, Options, Plan
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.density import check_initial_sparsity
from baselines.tools.masks import random_masks, scope_masks
from baselines.tools.schedules import cubic_sparsity, events


@dataclass(frozen=True)
class CubicOptions(Options):
    begin: float = 0.2
    """First event, as a fraction of the steps (STR's GMP: epoch 20 of 100)."""
    end: float = 0.8
    """Last event, as a fraction of the steps."""
    events: int = 60
    """Number of events; at most one per step."""

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end < 1:
            raise UserError(f"need 0 <= begin <= end < 1, not {self.begin} and {self.end}.")
        check_positive(events=self.events)


@dataclass(frozen=True)
class GmpOptions(CubicOptions):
    scope: Literal["layer", "global"] = changed("layer", before="global")
    """The same sparsity in every layer, or one threshold for the network."""
    initial_sparsity: float = 0.0
    """Sparsity of a random mask, the same in every layer, to start from; 0: a dense network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_initial_sparsity(self.initial_sparsity)


C = TypeVar("C", bound=CubicOptions)


class CubicPruning(Method[C], ABC):
    """Base of methods that prune at events along the cubic."""

    family = "dense to sparse"
    initial_sparsity = 0.0

    def before_step(self, net: SparseModel, step: int) -> None:
        if step in self.events:
            i, n = self.events.index(step) + 1, len(self.events)
            self.prune(net, cubic_sparsity(i, n, self.plan.sparsity, self.initial_sparsity))

    @property
    def events(self) -> tuple[int, ...]:
        """Steps before which weights are pruned."""
        options = self.options
        return events(options.begin, options.end, options.events, self.plan.steps)

    @abstractmethod
    def prune(self, net: SparseModel, sparsity: float) -> None:
        """Prune the network to a sparsity that is higher than the present one."""


@register
class Gmp(CubicPruning[GmpOptions]):
    """Gradual magnitude pruning."""

    name = "gmp"
    paper = "Zhu & Gupta 2017"

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.initial_sparsity = self.options.initial_sparsity
        check_initial_sparsity(self.initial_sparsity, plan.sparsity)

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        if self.initial_sparsity:
            shapes, seed = net.shapes, self.plan.seed
            net.set_masks(random_masks("uniform", shapes, self.initial_sparsity, seed))

    def prune(self, net: SparseModel, sparsity: float) -> None:
        # magnitudes are −1 where masked: masks are nested
        net.set_masks(scope_masks(net.magnitudes(), sparsity, self.options.scope))
