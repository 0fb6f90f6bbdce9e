"""SRigL: RigL with the same number of weights into every neuron, and without the weak neurons.

Lasby et al. 2024 (arXiv 2305.02299). As RigL, but each neuron (output channel) of a layer has
equally many incoming weights, its *fan-in*, at all times. At an update, the weights that RigL
would keep or grow in the layer are its salient ones. A neuron with fewer of them than
`min_salient` of the fan-in is ablated for good; its weights go to the other neurons of the layer,
whose fan-in rises. Then each neuron keeps its largest and grows by gradient up to the new fan-in.

A constant fan-in makes each layer's number of weights a multiple of its neurons, so that the
requested sparsity is met to half a neuron of the last layer only: what rounding takes from one
layer is asked of the next. Neurons of the last layer, the classes, are never ablated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Options, Plan, Samples
from baselines.methods.rigl import RigL, RigLOptions
from baselines.methods.set_ import strongest
from baselines.tools.density import layer_counts, seeded, top_k_mask
from baselines.tools.schedules import cosine_fraction

TINY = 1e-30


@dataclass(frozen=True)
class SRigLOptions(RigLOptions):
    min_salient: float = 0.3
    """γ: a neuron with fewer salient weights than this fraction of the fan-in is ablated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_salient <= 1:
            raise UserError(f"min_salient must be in [0, 1], not {self.min_salient}.")


class SRigL(RigL):
    """Structured RigL: constant fan-in with neuron ablation."""

    name = "srigl"
    paper = "Lasby et al. 2024"
    options = SRigLOptions
    tolerance = 0.005

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.budgets: dict[str, int] = {}

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        self.budgets = layer_counts(self.opt.density, net.shapes, self.plan.sparsity)
        ranks = {
            name: torch.rand(shape, generator=seeded(self.plan.seed, name))
            for name, shape in net.shapes.items()
        }
        everyone = {name: _all_true(shape[0]) for name, shape in net.shapes.items()}
        net.set_masks(constant_fan_in_masks(ranks, everyone, self.budgets))

    def update(self, net: SparseModel, step: int) -> None:
        """Ablates neurons, and gives the others their strongest weights and candidates."""
        fraction = cosine_fraction(step, self.end, self.opt.drop_fraction)
        *_, last = net.layers
        ranks, alive = {}, {}
        for layer in net:
            mask = net.masks[layer.name]
            order = ranking(layer.weight.detach(), mask, self.growth(layer, step), fraction)
            share = 0.0 if layer.name == last else self.opt.min_salient
            ranks[layer.name], alive[layer.name] = order, surviving(order, mask, share)
        net.set_masks(constant_fan_in_masks(ranks, alive, self.budgets))

    def state_dict(self) -> dict[str, Any]:
        return {"budgets": self.budgets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.budgets = state["budgets"]


def ranking(weight: Tensor, mask: Tensor, growth: Tensor, fraction: float) -> Tensor:
    """Scores of one layer: above 1 for weights that RigL keeps, by magnitude; in [0, 1] for all
    others, by growth; −1 in neurons that were ablated."""
    n = int(mask.sum())
    kept = strongest(weight, mask, n - int(n * fraction))
    by_magnitude = 1 + weight.abs() / weight.abs().max().clamp_min(TINY)
    ranks = torch.where(kept, by_magnitude, growth / growth.max().clamp_min(TINY))
    return ranks.masked_fill_(~_living(mask).view(-1, *[1] * (mask.ndim - 1)), -1.0)


def surviving(ranks: Tensor, mask: Tensor, share: float) -> Tensor:
    """The neurons, as booleans, that keep enough salient weights; one at least.

    Args:
        ranks: of `ranking`; the salient weights are its largest, as many as are active.
        share: of the fan-in.
    """
    living, fan_in = _living(mask), int(mask.flatten(1).sum(1).max())
    salient = top_k_mask(ranks, int(mask.sum())).flatten(1).sum(1)
    alive = living & (salient >= share * fan_in)
    return alive if bool(alive.any()) else living & (salient == salient[living].max())


def constant_fan_in_masks(
    ranks: Mapping[str, Tensor], alive: Mapping[str, Tensor], budgets: Mapping[str, int]
) -> dict[str, Tensor]:
    """Masks with the highest ranks, equally many in each neuron that is alive.

    Args:
        budgets: weights a layer; what rounding makes of one is balanced by the next.
    """
    masks, owed = {}, 0
    for name, rank in ranks.items():
        neurons, size = int(alive[name].sum()), rank[0].numel()
        wanted = budgets[name] + owed
        fan_in = min(size, max(1, round(wanted / neurons)))
        owed = wanted - fan_in * neurons
        rows = rank.flatten(1).topk(fan_in).indices
        mask = torch.zeros(rank.shape[0], size, dtype=torch.bool, device=rank.device)
        mask.scatter_(1, rows, True)
        masks[name] = (mask & alive[name].unsqueeze(1)).view(rank.shape)
    return masks


def _living(mask: Tensor) -> Tensor:
    return mask.flatten(1).any(1)


def _all_true(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.bool)
