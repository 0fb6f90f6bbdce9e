"""SRigL: RigL with a constant fan-in and ablation of weak neurons.

Lasby et al. 2024 (arXiv 2305.02299). As RigL, but all neurons (output channels) of a layer have the
same number of incoming weights, the *fan-in*, at all times. At an update, the weights that RigL
would keep or grow in the layer are its salient ones. A neuron with fewer of them than `min_salient`
of the fan-in is ablated for good; its weights go to the other neurons of the layer, whose fan-in
rises. Then each neuron keeps its largest weights and grows by gradient up to the new fan-in.

With a constant fan-in, each layer's number of weights is a multiple of its number of neurons, so
that the requested sparsity is met up to half the neurons of the last layer: the rounding error of
one layer is passed on to the next. Neurons of the last layer, the classes, are never ablated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Options, Plan
from baselines.methods.set_rigl import GradientGrowth, RigLOptions
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.density import layer_counts
from baselines.tools.masks import seeded, strongest, top_k_mask

TINY = 1e-30


@dataclass(frozen=True)
class SRigLOptions(RigLOptions):
    min_salient: float = 0.3
    """γ: a neuron with fewer salient weights than this fraction of the fan-in is ablated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_salient <= 1:
            raise UserError(f"min_salient must be in [0, 1], not {self.min_salient}.")


@register
class SRigL(GradientGrowth[SRigLOptions]):
    """Structured RigL: constant fan-in with neuron ablation."""

    name = "srigl"
    paper = "Lasby et al. 2024"
    tolerance = 0.005

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.budgets: dict[str, int] = {}  # number of weights of each layer

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        net.require_ordinary("srigl")
        self.budgets = layer_counts(self.options.density, net.shapes, self.plan.sparsity)
        ranks = {
            name: torch.rand(shape, generator=seeded(self.plan.seed, name))
            for name, shape in net.shapes.items()
        }
        everyone = {name: torch.ones(shape[0]).bool() for name, shape in net.shapes.items()}
        net.set_masks(constant_fan_in_masks(ranks, everyone, self.budgets))

    def update(self, net: SparseModel, step: int) -> None:
        """Ablate neurons, and give the others their strongest weights and candidates."""
        fraction = self.drop_fraction(step)
        *_, last = net.layers
        ranks, alive = {}, {}
        for layer in net:
            mask = net.masks[layer.name]
            order = ranking(layer.weight.detach(), mask, self.growth(layer, step), fraction)
            share = 0.0 if layer.name == last else self.options.min_salient
            ranks[layer.name], alive[layer.name] = order, surviving(order, mask, share)
        net.set_masks(constant_fan_in_masks(ranks, alive, self.budgets))

    def state_dict(self) -> dict[str, Any]:
        return {"budgets": self.budgets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.budgets = state["budgets"]


def ranking(weight: Tensor, mask: Tensor, growth: Tensor, fraction: float) -> Tensor:
    """Return the scores of one layer, of the weight's shape.

    They are above 1 for weights that RigL keeps, by magnitude; in [0, 1] for all others, by growth;
    −1 in ablated neurons.
    """
    n = int(mask.sum())
    kept = strongest(weight, mask, n - int(n * fraction))
    by_magnitude = 1 + weight.abs() / weight.abs().max().clamp_min(TINY)
    ranks = torch.where(kept, by_magnitude, growth / growth.max().clamp_min(TINY))
    return ranks.masked_fill_(~_living(mask).view(-1, *[1] * (mask.ndim - 1)), -1.0)


def surviving(ranks: Tensor, mask: Tensor, share: float) -> Tensor:
    """Return, for each neuron, whether it keeps enough salient weights; at least one does.

    Args:
        ranks: scores of `ranking`; as many of the largest as are active are the salient weights.
        share: least number of salient weights, as a fraction of the fan-in.
    """
    living, fan_in = _living(mask), int(mask.flatten(1).sum(1).max())
    salient = top_k_mask(ranks, int(mask.sum())).flatten(1).sum(1)
    alive = living & (salient >= share * fan_in)
    return alive if bool(alive.any()) else living & (salient == salient[living].max())


def constant_fan_in_masks(
    ranks: Mapping[str, Tensor], alive: Mapping[str, Tensor], budgets: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return masks with the highest ranks, equally many in each neuron that is alive.

    Args:
        budgets: number of weights of each layer; the next layer compensates a rounding error.
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
