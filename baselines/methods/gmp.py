"""GMP: gradual magnitude pruning, along a cubic.

Zhu & Gupta 2017 (arXiv 1710.01878). Every so often the smallest weights go, quickly at first, then
ever more slowly: s_i = s·(1 − (1 − i/n)³) after the i-th of n events.

Differs from the published codes, each of which does another thing: the last event is exactly at
the requested sparsity (STR's copy ends at 0.89999, AC/DC's at 0.8991, sparsimony's at 0.8969 of
0.9), what is pruned never comes back, so that masks are nested, and one magnitude threshold
serves all layers (`scope="layer"`: each layer has the same sparsity, as in Zhu & Gupta).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Options
from baselines.tools.density import global_top_k_masks, keep_count, layer_counts, top_k_mask
from baselines.tools.schedules import cubic_sparsity, events


@dataclass(frozen=True)
class CubicOptions(Options):
    begin: float = 0.2
    """First event, as a fraction of the steps (STR's GMP: epoch 20 of 100)."""
    end: float = 0.8
    """Last event, likewise."""
    events: int = 60
    """Number of events; a short training has as many as it has steps."""

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end < 1:
            raise UserError(f"need 0 <= begin <= end < 1, not {self.begin} and {self.end}.")
        if self.events < 1:
            raise UserError(f"events must be positive, not {self.events}.")


@dataclass(frozen=True)
class GmpOptions(CubicOptions):
    scope: Literal["global", "layer"] = "global"
    """One threshold for the network, or the same sparsity in every layer."""


class Gmp(Method):
    """Gradual magnitude pruning."""

    name = "gmp"
    family = "dense to sparse"
    paper = "Zhu & Gupta 2017"
    options: ClassVar[type[Options]] = GmpOptions

    def before_step(self, net: SparseModel, step: int) -> None:
        if step in self.events:
            i, n = self.events.index(step) + 1, len(self.events)
            self.prune(net, cubic_sparsity(i, n, self.plan.sparsity))

    @property
    def events(self) -> tuple[int, ...]:
        """The steps before which weights go."""
        return events(self.opt.begin, self.opt.end, self.opt.events, self.plan.steps)

    def prune(self, net: SparseModel, sparsity: float) -> None:
        """Takes the network from the sparsity that it has to a higher one."""
        scores = net.magnitudes()  # below all others where masked: masks are nested
        if self.opt.scope == "global":
            net.set_masks(global_top_k_masks(scores, keep_count(net.numel, sparsity)))
        else:
            counts = capped(
                layer_counts("uniform", net.shapes, sparsity),
                {layer.name: layer.nnz for layer in net},
            )
            net.set_masks({name: top_k_mask(scores[name], k) for name, k in counts.items()})


def capped(counts: dict[str, int], most: dict[str, int]) -> dict[str, int]:
    """The counts with none above its cap and the same sum, as far as the caps allow.

    Rounding can ask for a weight more in a layer than there are left: another layer keeps it.
    """
    fitting = {name: min(count, most[name]) for name, count in counts.items()}
    excess = sum(counts.values()) - sum(fitting.values())
    for name in sorted(fitting):
        more = min(excess, most[name] - fitting[name])
        fitting[name] += more
        excess -= more
    return fitting
