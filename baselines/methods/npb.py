"""NPB: pruning at initialisation that balances effective nodes and effective paths.

Pham et al. 2023 (arXiv 2306.09001). With ERK densities, layer by layer from the input on, weights
are placed such that they maximise

    α · (units with a weight, in and out) + (1 − α) · (paths from the input) + β · (kernels in use)

with at most `max_kernel` weights in a kernel. Magnitudes break ties only. Needs no data.

Differs from the official code: that solves an integer program, for groups of channels, with three
terms that are not scaled; here each term is a fraction of its largest possible value in the layer,
and whole layers are solved exactly (see `baselines.tools.placement`; a test compares with an
integer solver). Weights that are on no path are then replaced by the largest ones that are on one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import check_in_unit, check_not_negative, check_positive
from baselines.method import Method, Options
from baselines.registry import register
from baselines.samples import Samples
from baselines.tools.collapse import set_initial_masks
from baselines.tools.density import keep_count, layer_counts
from baselines.tools.masks import top_k_mask
from baselines.tools.paths import Paths, by_group, connections, fill_live, trace
from baselines.tools.placement import Gains, place_greedily


@dataclass(frozen=True)
class NpbOptions(Options):
    density: Literal["erk", "balanced", "uniform", "erk-plus"] = "erk"
    """How many weights each layer keeps, before those on no path are replaced."""
    node_weight: float = 0.5
    """α: weight of units, against 1 − α of paths, in [0, 1]."""
    kernel_weight: float = 0.1
    """β: weight of the kernels in use."""
    max_kernel: int = 9
    """Largest number of weights in a kernel."""

    def __post_init__(self) -> None:
        check_in_unit(node_weight=self.node_weight)
        check_not_negative(kernel_weight=self.kernel_weight)
        check_positive(max_kernel=self.max_kernel)


@register
class Npb(Method[NpbOptions]):
    """Node-path balancing."""

    name = "npb"
    family = "pruning at initialisation"
    paper = "Pham et al. 2023"

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        paths = trace(net, samples.one_example())
        sizes = {layer.name: layer.weight.detach().abs().cpu() for layer in net}
        counts = layer_counts(self.options.density, net.shapes, self.plan.sparsity)
        masks = balanced_masks(paths, sizes, counts, self.options)
        k = keep_count(net.numel, self.plan.sparsity)
        masks = fill_live(paths, masks, sizes, k, self.options.max_kernel)
        set_initial_masks(self.name, net, masks, samples)


def balanced_masks(
    paths: Paths, sizes: dict[str, Tensor], counts: dict[str, int], options: NpbOptions
) -> dict[str, Tensor]:
    """Return one mask per layer; units that no path reaches get no weight.

    Args:
        paths: paths of the network.
        sizes: |θ| by layer.
        counts: number of weights of each layer.
        options: weights of the objective.
    """
    masks = {name: torch.zeros_like(size, dtype=torch.bool) for name, size in sizes.items()}
    for op in paths.ops:
        if op.kind != "layer" or op.layer in paths.fixed or masks[op.layer].any():
            continue  # a layer that is called several times is placed once
        kernels = {name: connections(mask) for name, mask in masks.items()}
        reached = paths.counts(kernels)[op.sources[0]].view(op.groups, -1)
        size = by_group(sizes[op.layer], op.groups)
        n, extra = divmod(counts[op.layer], op.groups)
        parts = [place(size[g], reached[g], n + (g < extra), options) for g in range(op.groups)]
        masks[op.layer] = torch.cat(parts).view(sizes[op.layer].shape)
    return masks


def place(size: Tensor, reached: Tensor, n: int, options: NpbOptions) -> Tensor:
    """Return the mask of n weights of one layer, (out, in, positions).

    Args:
        size: |θ|, (out, in, positions).
        reached: number of paths from the input to each input unit, (in,).
    """
    most = min(size.shape[2], options.max_kernel)
    chosen, extras = choose_kernels(size.sum(2), reached, n, most, options)
    rank = size.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
    mask: Tensor = chosen.unsqueeze(2) & (rank == 0)
    more = chosen.unsqueeze(2) & (rank > 0) & (rank < most)
    for unit, extra in enumerate(extras):
        if extra:
            scores = size[:, unit].masked_fill(~more[:, unit], -1.0)
            mask[:, unit] |= top_k_mask(scores, extra)
    return mask


def choose_kernels(
    norms: Tensor, reached: Tensor, n: int, most: int, options: NpbOptions
) -> tuple[Tensor, list[int]]:
    """Return the kernels in use, (out, in), and the further weights of each input unit.

    Args:
        norms: norms of the kernels, (out, in); they break ties.
        reached: number of paths from the input to each input unit, (in,).
        n: number of weights.
        most: largest number of weights in a kernel.
    """
    outs, ins = norms.shape
    live = [u for u in range(ins) if reached[u] > 0]
    top = float(reached.max()) or 1.0
    gains = Gains(
        node=options.node_weight / (outs + max(1, len(live))),
        kernel=options.kernel_weight / max(1, min(n, outs * len(live))),
        path={u: (1 - options.node_weight) * float(reached[u]) / (top * max(1, n)) for u in live},
    )
    return place_greedily(norms, gains, n, most)
