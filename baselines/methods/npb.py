"""NPB: pruning at initialisation that balances effective nodes and effective paths.

Pham et al. 2023 (arXiv 2306.09001). With layer-wise densities of ERK, layer by layer from the input
on, weights are placed where they make the most of

    α · (units with a weight, in and out) + (1 − α) · (paths from the input) + β · (kernels in use)

with no more than `max_kernel` weights in a kernel. Magnitudes decide only what is equal in this.
Needs no data.

Differs from the official code: that is an integer program for a solver, cut into groups of
channels, and its three terms are not scaled; here each is a fraction of the largest value that it
could have in the layer. Since the paths that a weight adds depend on its input unit alone, the sum
is laminar concave in the numbers of weights and kernels of each input unit, and adding the best
weight one by one finds the optimum, for whole layers (a test holds it against a solver). Weights
that end on no path are then replaced by the largest ones that are on one.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.method import Method, Options, Samples
from baselines.methods.phew import fill_live
from baselines.tools.density import keep_count, layer_counts, top_k_mask
from baselines.tools.paths import Paths, by_group, connections, trace


@dataclass(frozen=True)
class NpbOptions(Options):
    density: Literal["erk", "balanced", "uniform", "erk-plus"] = "erk"
    """How many weights each layer keeps, up to those that end on no path."""
    node_weight: float = 0.5
    """α: what units count against paths, in [0, 1]."""
    kernel_weight: float = 0.1
    """β: what kernels in use count."""
    max_kernel: int = 9
    """Most weights in a kernel."""

    def __post_init__(self) -> None:
        if not 0 <= self.node_weight <= 1 or self.kernel_weight < 0:
            raise UserError("node_weight must be in [0, 1], and kernel_weight not negative.")
        if self.max_kernel < 1:
            raise UserError(f"max_kernel must be positive, not {self.max_kernel}.")


class Npb(Method):
    """Node-path balancing."""

    name = "npb"
    family = "pruning at initialisation"
    paper = "Pham et al. 2023"
    options = NpbOptions

    def prepare(self, net: SparseModel, samples: Samples) -> None:
        x, _ = next(iter(samples(1)))
        paths = trace(net, x[:1])
        sizes = {layer.name: layer.weight.detach().abs().cpu() for layer in net}
        counts = layer_counts(self.opt.density, net.shapes, self.plan.sparsity)
        masks = balanced_masks(paths, sizes, counts, self.opt)
        net.set_masks(fill_live(paths, masks, sizes, keep_count(net.numel, self.plan.sparsity)))


def balanced_masks(
    paths: Paths, sizes: dict[str, Tensor], counts: dict[str, int], options: NpbOptions
) -> dict[str, Tensor]:
    """A mask a layer, from the input on; units that no path reaches get no weight."""
    masks = {name: torch.zeros_like(size, dtype=torch.bool) for name, size in sizes.items()}
    for op in paths.ops:
        if op.kind != "layer" or op.layer in paths.fixed:
            continue
        kernels = {name: connections(mask) for name, mask in masks.items()}
        reached = paths.counts(kernels)[op.sources[0]].view(op.groups, -1)
        size = by_group(sizes[op.layer], op.groups)
        n, extra = divmod(counts[op.layer], op.groups)
        parts = [place(size[g], reached[g], n + (g < extra), options) for g in range(op.groups)]
        masks[op.layer] = torch.cat(parts).view(sizes[op.layer].shape)
    return masks


def place(size: Tensor, reached: Tensor, n: int, options: NpbOptions) -> Tensor:
    """Where to put n weights of one layer: a mask of (out, in, positions).

    Args:
        size: |θ|, of that shape.
        reached: paths from the input to each input unit.
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
    """The kernels in use, (out, in), and how many more weights than one each those of an input
    unit have together; the optimum of the objective.

    Args:
        norms: of the kernels; the largest are taken first, all else being equal.
        most: weights in a kernel.
    """
    outs, ins = norms.shape
    live = [u for u in range(ins) if reached[u] > 0]
    top = float(reached.max()) or 1.0
    node = options.node_weight / (outs + max(1, len(live)))
    kernel = options.kernel_weight / max(1, min(n, outs * len(live)))
    path = {u: (1 - options.node_weight) * float(reached[u]) / (top * max(1, n)) for u in live}
    order = {u: norms[:, u].argsort(dim=0, descending=True, stable=True).tolist() for u in live}
    taken: dict[int, list[int]] = {u: [] for u in live}  # output units, by input unit
    extras, bare = [0] * ins, set(range(outs))

    def gain(u: int) -> float:
        """Of a new kernel."""
        return path[u] + kernel + node * (bool(bare) + (not taken[u]))

    heap = [(-gain(u), u, True) for u in live]
    heapq.heapify(heap)
    while n > 0 and heap:
        was, u, is_kernel = heapq.heappop(heap)
        if not is_kernel:
            extras[u] += 1
            n -= 1
            if extras[u] < len(taken[u]) * (most - 1):
                heapq.heappush(heap, (was, u, False))
            continue
        if -was > gain(u):  # it was worth more before
            heapq.heappush(heap, (-gain(u), u, True))
            continue
        if bare:
            out = next(o for o in order[u] if o in bare)
            bare.remove(out)
            order[u].remove(out)
        else:
            out = order[u].pop(0)
        taken[u].append(out)
        n -= 1
        if most > 1 and extras[u] == (len(taken[u]) - 1) * (most - 1):
            heapq.heappush(heap, (-path[u], u, False))
        if order[u]:
            heapq.heappush(heap, (-gain(u), u, True))
    chosen = torch.zeros(outs, ins, dtype=torch.bool)
    for u, outputs in taken.items():
        chosen[outputs, u] = True
    return chosen, extras
