"""Permutations of a network's units that bring its weights close to those of another network.

This is weight matching, Algorithm 1 of Ainsworth et al. (2023), for networks whose axes
`launch.measures.units` finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from launch.measures.units import Axis

Group = tuple[Axis, ...]
Named = Mapping[str, Tensor]
MAX_ROUNDS = 100
SEED = 0  # of the order of groups in each round


def match_units(
    source: Named, target: Named, groups: Sequence[Group], parameters: Sequence[str]
) -> list[Tensor]:
    """Return a permutation of the units of each group.

    The groups are matched one after the other in rounds of random order, until none increases the
    inner product of the two networks' parameters. Each is matched exactly, unless one tensor has
    several of its axes (a layer with a shortcut around it): these are matched with one of them in
    turn, the others as found before, and a change is kept only if it increases the inner product.

    Args:
        source: the state dict of the network whose units are to be permuted.
        target: that of the network to match.
        parameters: names of the tensors that are compared.

    Returns:
        By group a tensor p: unit i of the permuted network is unit p[i] of the source.
    """
    compared = set(parameters)
    found = [torch.arange(_size(group, source)) for group in groups]
    rng = np.random.default_rng(SEED)
    for _ in range(MAX_ROUNDS):
        changed = False
        for g in rng.permutation(len(groups)):
            gains = _inner_products(source, target, groups, found, int(g), compared)
            _, chosen = linear_sum_assignment(gains.numpy(), maximize=True)
            tried = [*found[:g], torch.from_numpy(chosen), *found[g + 1 :]]
            if torch.equal(tried[g], found[g]):
                continue
            own = list(dict.fromkeys(a.name for a in groups[g] if a.name in compared))
            before, after = (
                _inner_product(source, target, groups, orders, own) for orders in (found, tried)
            )
            if after > before + 1e-12 * abs(before):
                found, changed = tried, True
        if not changed:
            break
    return found


def permute_units(
    tensors: Named, groups: Sequence[Group], found: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the tensors with the units of all groups permuted; others are unchanged.

    Args:
        tensors: a state dict, or masks with the names and shapes of some of its tensors.
    """
    permuted = dict(tensors)
    for group, order in zip(groups, found, strict=True):
        for axis in group:
            if axis.name in permuted:
                permuted[axis.name] = _permute(permuted[axis.name], axis, order)
    return permuted


def _size(group: Group, tensors: Named) -> int:
    return tensors[group[0].name].shape[group[0].dim] // group[0].block


def _permute(tensor: Tensor, axis: Axis, order: Tensor) -> Tensor:
    entries = order[:, None] * axis.block + torch.arange(axis.block)
    return tensor.index_select(axis.dim, entries.flatten().to(tensor.device))


def _inner_product(
    source: Named,
    target: Named,
    groups: Sequence[Group],
    found: Sequence[Tensor],
    names: Sequence[str],
) -> float:
    """Return the inner product of the named tensors of the target and the permuted source."""
    permuted = permute_units({name: source[name] for name in names}, groups, found)
    return sum(
        float((target[k].double().cpu() * t.double().cpu()).sum()) for k, t in permuted.items()
    )


def _inner_products(
    source: Named,
    target: Named,
    groups: Sequence[Group],
    found: Sequence[Tensor],
    g: int,
    compared: set[str],
) -> Tensor:
    """Return the inner product of each unit of the target and each of the source, (n, n).

    All axes of the source are permuted as found so far, except for the one whose units these are.
    """
    n = len(found[g])
    total = torch.zeros(n, n, dtype=torch.float64)
    for axis in groups[g]:
        if axis.name in compared:
            others = [tuple(other for other in group if other != axis) for group in groups]
            permuted = permute_units({axis.name: source[axis.name]}, others, found)
            rows, columns = (
                t[axis.name].double().movedim(axis.dim, 0).reshape(n, -1).cpu()
                for t in (target, permuted)
            )
            total += rows @ columns.T
    return total
