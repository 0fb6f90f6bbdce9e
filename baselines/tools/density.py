"""Compute how many weights each layer keeps.

Uniform, ERK and balanced densities are one problem, `fill`: layer l gets the density
min(1, ε·raw_l), with ε such that the whole network has exactly the requested density. The excess of
full layers is spread over the others. Most published codes lose it: at 80 % sparsity, balanced
densities on ResNet18/CIFAR-100 then give 81.4 to 85.8 %.

Sources: ERK, Evci et al. 2020 (RigL), after Mocanu et al. 2018; balanced, Gadhikar et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from baselines.engine.kinds import BatchShape
from baselines.errors import UserError, check_fraction, require, unknown

Shapes = Mapping[str, tuple[int, ...]]  # torch.Size is one
Kind = Callable[[Shapes, float], dict[str, float]]


def fill(raw: Mapping[str, float], sizes: Mapping[str, int], density: float) -> dict[str, float]:
    """Return densities min(1, ε·raw_l) with Σ min(1, ε·raw_l)·N_l = density·ΣN_l, exactly.

    The result does not depend on the order of the layers.

    Args:
        raw: positive importance of each layer, of any scale.
        sizes: number of weights N_l of each layer.
        density: density of the whole network, in (0, 1].

    Raises:
        UserError: the density is out of range.
    """
    if not 0 < density <= 1:
        raise UserError(f"density must be in (0, 1], not {density}.")
    budget = density * sum(sizes.values())
    open_ = sorted(raw, key=lambda name: raw[name])  # the last one fills up first
    full: set[str] = set()
    while open_:
        epsilon = budget / math.fsum(raw[name] * sizes[name] for name in open_)
        if epsilon * raw[open_[-1]] <= 1:
            return {name: 1.0 if name in full else epsilon * raw[name] for name in raw}
        full.add(open_.pop())
        budget = density * sum(sizes.values()) - sum(sizes[name] for name in full)
    return dict.fromkeys(raw, 1.0)


def uniform(shapes: Shapes, density: float) -> dict[str, float]:
    """Return the same density for all layers, first and last included."""
    return fill(dict.fromkeys(shapes, 1.0), _sizes(shapes), density)


def erk(shapes: Shapes, density: float) -> dict[str, float]:
    """Return Erdős-Rényi-Kernel densities, ∝ (sum of the dimensions) / (their product).

    The dimensions are those of one linear map, which include those of the kernel. Each expert of a
    mixture is a linear map of its own.
    """
    return fill(_erk_raw(shapes), _sizes(shapes), density)


def balanced(shapes: Shapes, density: float) -> dict[str, float]:
    """Return densities that give each layer the same number of weights, at most its size."""
    sizes = _sizes(shapes)
    return fill({name: 1 / size for name, size in sizes.items()}, sizes, density)


def erk_plus(shapes: Shapes, density: float) -> dict[str, float]:
    """Return ERK densities with a dense classifier; ERK+ of Liu et al. 2022.

    The classifier is the last of `shapes`, the layer that the model defines last. The other layers
    are sparser by as much, so that the whole keeps the density.

    Raises:
        UserError: the classifier alone exceeds the density.
    """
    return _with_dense([*shapes][-1], shapes, density, erk)


def uniform_dense_first(shapes: Shapes, density: float) -> dict[str, float]:
    """Return a dense first layer and the same density for all others; Evci et al. 2020 (RigL).

    The other layers are sparser by as much, so that the whole keeps the density.

    Raises:
        UserError: the first layer alone exceeds the density.
    """
    return _with_dense(next(iter(shapes)), shapes, density, uniform)


def _with_dense(dense: str, shapes: Shapes, density: float, others: Kind) -> dict[str, float]:
    sizes = _sizes(shapes)
    rest = {name: shape for name, shape in shapes.items() if name != dense}
    left = density * sum(sizes.values()) - sizes[dense]
    if left <= 0 < len(rest):
        raise UserError(f"{dense} alone has more weights than density {density:g} allows.")
    found = others(rest, left / sum(_sizes(rest).values())) if rest else {}
    return {name: found.get(name, 1.0) for name in shapes}


def legacy_erk(shapes: Shapes, density: float) -> dict[str, float]:
    """Return ERK densities as in several published codes: the excess of full layers is lost."""
    raw, sizes = _erk_raw(shapes), _sizes(shapes)
    epsilon = density * sum(sizes.values()) / sum(raw[name] * sizes[name] for name in raw)
    return {name: min(1.0, epsilon * raw[name]) for name in raw}


def legacy_balanced(shapes: Shapes, density: float) -> dict[str, float]:
    """Return balanced densities as in the code of the paper's group (TurboPrune).

    Layers are visited in order. The excess of a full layer is shared among it and the later ones,
    so that a part of it is lost.
    """
    sizes = _sizes(shapes)
    share = density * sum(sizes.values()) / len(sizes)
    densities = {}
    for i, (name, size) in enumerate(sizes.items()):
        densities[name] = min(1.0, share / size)
        if share > size:
            share += (share - size) / (len(sizes) - i)
    return densities


DENSITIES: dict[str, Kind] = {
    "uniform": uniform,
    "erk": erk,
    "balanced": balanced,
    "erk-plus": erk_plus,
    "uniform-dense-first": uniform_dense_first,
}

LEGACY: dict[str, Kind] = {
    "legacy-erk": legacy_erk,
    "legacy-balanced": legacy_balanced,
}


def layer_counts(kind: str, shapes: Shapes, sparsity: float) -> dict[str, int]:
    """Return the number of weights to keep in each layer.

    The numbers add up to `keep_count(N, sparsity)` exactly. Fractions are rounded by largest
    remainder, with ties broken by the layer's name. The legacy kinds reproduce what was published
    and keep fewer weights than requested.

    Args:
        kind: a key of DENSITIES or LEGACY.
        shapes: shapes of the prunable weights by layer.
        sparsity: requested fraction of zeros, in [0, 1).

    Raises:
        UserError: the kind is unknown, or the sparsity is out of range.
    """
    if kind in LEGACY:
        densities = LEGACY[kind](shapes, 1 - sparsity)
        return {name: round(densities[name] * size) for name, size in _sizes(shapes).items()}
    if kind not in DENSITIES:
        raise unknown("density", kind, [*DENSITIES, *LEGACY])
    sizes = _sizes(shapes)
    total = keep_count(sum(sizes.values()), sparsity)
    if total == 0:
        return dict.fromkeys(shapes, 0)
    wanted = {
        name: density * sizes[name]
        for name, density in DENSITIES[kind](shapes, total / sum(sizes.values())).items()
    }
    counts = {name: min(int(want + 1e-6), sizes[name]) for name, want in wanted.items()}
    by_remainder = sorted(wanted, key=lambda name: (counts[name] - wanted[name], name))
    missing = total - sum(counts.values())
    for name in [name for name in by_remainder if counts[name] < sizes[name]][:missing]:
        counts[name] += 1
    return counts


def keep_count(numel: int, sparsity: float) -> int:
    """Return the number of weights that remain at a sparsity: numel − round(sparsity·numel).

    Raises:
        UserError: the sparsity is not in [0, 1).
    """
    check_fraction(sparsity=sparsity)
    return numel - round(sparsity * numel)


def check_initial_sparsity(initial: float, final: float = 1.0) -> None:
    """Check the sparsity from which a method prunes on to a final one.

    Raises:
        UserError: it is not in [0, 1), or above the final one.
    """
    check_fraction(initial_sparsity=initial)
    require(initial <= final, f"initial_sparsity {initial} is above the sparsity {final}.")


def capped(counts: Mapping[str, int], most: Mapping[str, int]) -> dict[str, int]:
    """Return counts of at most `most` with the same sum, as far as the caps allow.

    Rounding can request one weight more in a layer than it has left: another layer keeps it.
    """
    fitting = {name: min(count, most[name]) for name, count in counts.items()}
    excess = sum(counts.values()) - sum(fitting.values())
    for name in sorted(fitting):
        more = min(excess, most[name] - fitting[name])
        fitting[name] += more
        excess -= more
    return fitting


def _erk_raw(shapes: Shapes) -> dict[str, float]:
    maps = {k: shape.one if isinstance(shape, BatchShape) else shape for k, shape in shapes.items()}
    return {name: sum(shape) / math.prod(shape) for name, shape in maps.items()}


def _sizes(shapes: Shapes) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in shapes.items()}
