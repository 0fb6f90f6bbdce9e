"""Place weights in the kernels of a layer such that a sum of gains is largest.

The sum counts weights by their input unit, kernels in use, and units in use. It is laminar concave
in the numbers of weights and kernels of each input unit, because the paths that a weight adds
depend on its input unit alone. So adding the best weight one by one finds the optimum.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gains:
    """What placed weights add to the objective.

    Attributes:
        node: gain of each unit, in or out, with its first weight.
        kernel: gain of each kernel with its first weight.
        path: gain of each weight by its input unit; other input units get no weight.
    """

    node: float
    kernel: float
    path: Mapping[int, float]


def place_greedily(norms: Tensor, gains: Gains, n: int, most: int) -> tuple[Tensor, list[int]]:
    """Return the kernels in use, (out, in), and the further weights of each input unit.

    A kernel in use has one weight; the further weights of an input unit are distributed over its
    kernels by the caller.

    Args:
        norms: norms of the kernels, (out, in); the larger one is taken first at equal gain.
        gains: the objective.
        n: number of weights.
        most: largest number of weights in a kernel.
    """
    search = _Search(norms, gains)
    heap = [(-search.gain(u), u, True) for u in gains.path]  # True: a new kernel
    heapq.heapify(heap)
    while n > 0 and heap:
        was, u, is_kernel = heapq.heappop(heap)
        if is_kernel and -was > search.gain(u):  # its gain has fallen since it was pushed
            heapq.heappush(heap, (-search.gain(u), u, True))
            continue
        n -= 1
        if not is_kernel:
            search.extras[u] += 1
            if search.room(u, most) > 0:
                heapq.heappush(heap, (was, u, False))
            continue
        search.take_kernel(u)
        if most > 1 and search.room(u, most) == most - 1:  # without room before
            heapq.heappush(heap, (-gains.path[u], u, False))
        if search.order[u]:
            heapq.heappush(heap, (-search.gain(u), u, True))
    chosen = norms.new_zeros(norms.shape, dtype=torch.bool)
    for u, outputs in search.taken.items():
        chosen[outputs, u] = True
    return chosen, search.extras


class _Search:
    """The weights placed so far."""

    def __init__(self, norms: Tensor, gains: Gains) -> None:
        outs, ins = norms.shape
        self.gains = gains
        self.order: dict[int, list[int]] = {  # free output units of each input unit, best first
            u: norms[:, u].argsort(dim=0, descending=True, stable=True).tolist() for u in gains.path
        }
        self.bare = set(range(outs))  # output units without a weight
        self.taken: dict[int, list[int]] = {u: [] for u in gains.path}  # output units of kernels
        self.extras = [0] * ins  # further weights of each input unit

    def gain(self, u: int) -> float:
        """Return the gain of a new kernel of an input unit."""
        new_units = bool(self.bare) + (not self.taken[u])
        return self.gains.path[u] + self.gains.kernel + self.gains.node * new_units

    def room(self, u: int, most: int) -> int:
        """Return how many further weights fit in the kernels of an input unit."""
        return len(self.taken[u]) * (most - 1) - self.extras[u]

    def take_kernel(self, u: int) -> None:
        """Use the best free kernel of an input unit, of a bare output unit if there is one."""
        if self.bare:
            out = next(o for o in self.order[u] if o in self.bare)
            self.bare.remove(out)
            self.order[u].remove(out)
        else:
            out = self.order[u].pop(0)
        self.taken[u].append(out)
