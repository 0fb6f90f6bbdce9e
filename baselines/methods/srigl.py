"""SRigL: RigL with a constant fan-in and ablation of weak neurons.

Lasby et al. 2024 (arXiv 2305.02299). As RigL, but all neurons (output channels) of a layer have the
same number of incoming weights, the *fan-in*, at all times. At an update, the weights that RigL
would keep or grow in the layer are its *salient* ones. A neuron with fewer than max(1, ⌊γk⌋) of
them is ablated, where k is the layer's fan-in without ablation. The other neurons share the layer's
weights: each keeps its largest and grows by gradient up to the new fan-in. Which neurons are
ablated is decided again at each update. Initial weights are scaled to the sparse fan-in.

With a constant fan-in, a layer's number of weights is a multiple of its number of neurons. The
initial fan-ins are chosen such that the network has the requested sparsity up to half the neurons
of the last layer; a warning says if it is denser, as each neuron has at least one weight. From then
on each layer has its own budget, met up to half its neurons.

The neurons of the layer that is defined last, the classes, are never ablated, and a layer keeps
enough neurons for its weights. Differs from the official code: gradients of kept weights do not
make others less salient, as in the paper's text; they are those of one batch (theirs for ImageNet:
of 8); weights that RigL drops do not stay because a neuron was ablated, and those of zero are not
always dropped; budgets are rounded to nearest; initial weights are scaled by √(dense fan-in/k).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_in_unit
from baselines.fields import changed
from baselines.method import Options, Plan
from baselines.methods.set_rigl import GradientGrowth, RigLOptions
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.density import Shapes, layer_counts
from baselines.tools.masks import ranking, seeded, top_k_mask, top_k_of_rows


@dataclass(frozen=True)
class SRigLOptions(RigLOptions):
    min_salient: float = 0.3
    """γ: a neuron with fewer salient weights than this fraction of the fan-in is ablated."""
    ablation: bool = changed(True, before=None)  # version 0.1 ablated by another rule
    """Ablate neurons."""
    sparse_init: bool = changed(True, before=False)
    """Scale the initial weights to the sparse fan-in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_in_unit(min_salient=self.min_salient)


@register
class SRigL(GradientGrowth[SRigLOptions]):
    """Structured RigL: constant fan-in with neuron ablation."""

    name, paper = "srigl", "Lasby et al. 2024"
    tolerance = 0.005

    def __init__(self, plan: Plan, options: Options | None = None) -> None:
        super().__init__(plan, options)
        self.fan_ins: dict[str, int] = {}  # of each layer without ablation

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        self.warn_of_replaced_steps()
        net.require_ordinary("srigl")
        counts = layer_counts(self.options.density, net.shapes, self.plan.sparsity)
        self.fan_ins = fan_ins(counts, net.shapes)
        warn_if_denser(self.fan_ins, counts, net.shapes)
        masks = {}
        for name, shape in net.shapes.items():
            ranks = torch.rand(shape, generator=seeded(self.plan.seed, name), device="cpu")
            masks[name] = top_k_of_rows(ranks.flatten(1), self.fan_ins[name]).view(shape)
        net.set_masks(masks)
        if self.options.sparse_init:
            gains = {n: (w[0].numel() / self.fan_ins[n]) ** 0.5 for n, w in net.weights.items()}
            net.set_weights({n: w.detach() * gains[n] for n, w in net.weights.items()})

    def update(self, net: SparseModel, step: int) -> None:
        """Choose the neurons, and give them their strongest weights and candidates."""
        fraction = self.drop_fraction(step)
        *_, last = net.layers
        masks = {}
        for layer, mask in self.changing(net, step):
            k = self.fan_ins[layer.name]
            ranks = ranking(layer.weight.detach(), mask, self.growth(layer, step), fraction)
            alive = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
            if self.options.ablation and layer.name != last:
                least = max(1, int(self.options.min_salient * k))
                alive = surviving(ranks, int(mask.sum()), least, k)
            fan_in = round(k * len(mask) / int(alive.sum()))
            masks[layer.name] = top_of_rows(ranks, alive, fan_in)
        net.set_masks(masks)

    def state_dict(self) -> dict[str, Any]:
        return {"fan_ins": self.fan_ins}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fan_ins = state["fan_ins"]


def fan_ins(counts: Mapping[str, int], shapes: Shapes) -> dict[str, int]:
    """Return the fan-in of each layer that comes closest to its number of weights.

    What rounding adds to one layer is taken from the next ones.
    """
    found, owed = {}, 0
    for name, count in counts.items():
        neurons, size = shapes[name][0], torch.Size(shapes[name][1:]).numel()
        found[name] = min(size, max(1, round((count + owed) / neurons)))
        owed += count - found[name] * neurons
    return found


def warn_if_denser(chosen: Mapping[str, int], counts: Mapping[str, int], shapes: Shapes) -> None:
    """Warn if the chosen fan-ins give more weights than wanted, by more than rounding."""
    wanted, given = sum(counts.values()), sum(k * shapes[name][0] for name, k in chosen.items())
    *_, last = chosen
    if given > wanted + shapes[last][0] / 2:
        text = f"srigl: {given} weights instead of {wanted}: each neuron has at least one."
        warnings.warn(text, stacklevel=2)


def surviving(ranks: Tensor, active: int, least: int, fan_in: int) -> Tensor:
    """Return, for each neuron, whether it has enough salient weights.

    Args:
        ranks: scores of `ranking`.
        active: number of active weights; as many of the highest scores are the salient weights.
        least: least number of salient weights.
        fan_in: fan-in without ablation. As many neurons survive as its weights need.
    """
    neurons, size = len(ranks), ranks[0].numel()
    salient = top_k_mask(ranks, active).flatten(1).sum(1)
    needed = -(-fan_in * neurons // size)
    return (salient >= least) | top_k_mask(salient.float(), needed)


def top_of_rows(ranks: Tensor, alive: Tensor, fan_in: int) -> Tensor:
    """Return a mask of the highest scores, equally many in each neuron that is alive."""
    mask = top_k_of_rows(ranks.flatten(1), fan_in)
    return (mask & alive.unsqueeze(1)).view(ranks.shape)
