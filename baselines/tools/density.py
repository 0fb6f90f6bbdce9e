"""How many weights each layer keeps, and masks with exactly that many ones.

Uniform, ERK and balanced densities are one problem, `fill`: layer l gets the density
min(1, ε·raw_l), with ε such that the whole keeps the requested density exactly. What a layer that
is full cannot take is spread over the others (the published codes mostly lose it: at 80 % sparsity,
balanced densities on ResNet18/CIFAR-100 then give 81.4 to 85.8 %).

Sources: ERK, Evci et al. 2020 (RigL), after Mocanu et al. 2018; balanced, Gadhikar et al. 2023.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from baselines.errors import UserError, unknown

Shapes = Mapping[str, tuple[int, ...]]  # torch.Size is one


def fill(raw: Mapping[str, float], sizes: Mapping[str, int], density: float) -> dict[str, float]:
    """Densities min(1, ε·raw_l) with Σ min(1, ε·raw_l)·N_l = density·ΣN_l, exactly.

    Does not depend on the order of the layers.

    Args:
        raw: positive weights by layer, of any scale.
        sizes: numbers of weights N_l by layer.
        density: of the whole, in (0, 1].
    """
    if not 0 < density <= 1:
        raise UserError(f"density must be in (0, 1], not {density}.")
    budget = density * sum(sizes.values())
    open_ = sorted(raw, key=lambda name: raw[name])  # the last one is the first to be full
    full: set[str] = set()
    while open_:
        epsilon = budget / math.fsum(raw[name] * sizes[name] for name in open_)
        if epsilon * raw[open_[-1]] <= 1:
            return {name: 1.0 if name in full else epsilon * raw[name] for name in raw}
        full.add(open_.pop())
        budget = density * sum(sizes.values()) - sum(sizes[name] for name in full)
    return dict.fromkeys(raw, 1.0)


def uniform(shapes: Shapes, density: float) -> dict[str, float]:
    """The same density everywhere, first and last layer included."""
    return fill(dict.fromkeys(shapes, 1.0), _sizes(shapes), density)


def erk(shapes: Shapes, density: float) -> dict[str, float]:
    """Erdős-Rényi-Kernel: ∝ (sum of the dimensions) / (their product), kernel included."""
    return fill(_erk_raw(shapes), _sizes(shapes), density)


def balanced(shapes: Shapes, density: float) -> dict[str, float]:
    """As many weights in every layer, as far as it has so many."""
    sizes = _sizes(shapes)
    return fill({name: 1 / size for name, size in sizes.items()}, sizes, density)


def erk_plus(shapes: Shapes, density: float) -> dict[str, float]:
    """ERK with a dense classifier (the last layer), which the others make room for.

    Liu et al. 2022 (ERK+).

    Raises:
        UserError: the classifier alone has as many weights as there may be.
    """
    *rest, last = shapes
    sizes = _sizes(shapes)
    left = (density * sum(sizes.values()) - sizes[last]) / max(1, sum(sizes[n] for n in rest))
    if not left > 0:
        raise UserError(f"erk-plus: {last} alone has more weights than density {density} allows.")
    return {**erk({name: shapes[name] for name in rest}, left), last: 1.0}


def legacy_erk(shapes: Shapes, density: float) -> dict[str, float]:
    """ERK as in several published codes: what full layers cannot take is lost."""
    raw, sizes = _erk_raw(shapes), _sizes(shapes)
    epsilon = density * sum(sizes.values()) / sum(raw[name] * sizes[name] for name in raw)
    return {name: min(1.0, epsilon * raw[name]) for name in raw}


def legacy_balanced(shapes: Shapes, density: float) -> dict[str, float]:
    """Balanced as in the code of the paper's group (TurboPrune): part of it is lost.

    Layers are visited in order; what a full one cannot take is shared among it and the later ones.
    """
    sizes = _sizes(shapes)
    share = density * sum(sizes.values()) / len(sizes)
    densities = {}
    for i, (name, size) in enumerate(sizes.items()):
        densities[name] = min(1.0, share / size)
        if share > size:
            share += (share - size) / (len(sizes) - i)
    return densities


DENSITIES: dict[str, Callable[[Shapes, float], dict[str, float]]] = {
    "uniform": uniform,
    "erk": erk,
    "balanced": balanced,
    "erk-plus": erk_plus,
}

LEGACY: dict[str, Callable[[Shapes, float], dict[str, float]]] = {
    "legacy-erk": legacy_erk,
    "legacy-balanced": legacy_balanced,
}


def layer_counts(kind: str, shapes: Shapes, sparsity: float) -> dict[str, int]:
    """Weights to keep in each layer; their sum is round((1 − sparsity)·N) exactly.

    Fractions are rounded by largest remainder, ties broken by the layer's name. The legacy kinds
    keep fewer than asked for: they are there to repeat what was published.

    Raises:
        UserError: an unknown kind of density.
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
    """Weights that remain at a sparsity: round((1 − sparsity)·numel)."""
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity must be in [0, 1), not {sparsity}.")
    return numel - round(sparsity * numel)


def random_mask(shape: tuple[int, ...], k: int, seed: int, name: str) -> Tensor:
    """A mask with exactly k ones, drawn uniformly; a function of seed and layer name alone."""
    mask = torch.zeros(math.prod(shape), dtype=torch.bool)
    mask[torch.randperm(mask.numel(), generator=seeded(seed, name))[:k]] = True
    return mask.view(shape)


def random_masks(kind: str, shapes: Shapes, sparsity: float, seed: int) -> dict[str, Tensor]:
    """Random masks with the layer-wise densities of that kind (see `layer_counts`)."""
    counts = layer_counts(kind, shapes, sparsity)
    return {name: random_mask(tuple(shapes[name]), k, seed, name) for name, k in counts.items()}


def seeded(*parts: int | str) -> torch.Generator:
    """A generator that is a function of numbers and names (Python's hash() is not, over runs)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """A mask with exactly k ones at the largest scores, ties broken by index (first wins).

    Raises:
        UserError: a score is NaN.
    """
    flat = scores.flatten()
    if bool(flat.isnan().any()):
        raise UserError("a score is NaN.")
    mask = torch.zeros_like(flat, dtype=torch.bool)
    if k > 0:
        threshold = _kth_largest(flat, k)
        mask = flat > threshold
        ties = (flat == threshold).nonzero().squeeze(1)
        mask[ties[: k - int(mask.sum())]] = True
    return mask.view(scores.shape)


def _kth_largest(flat: Tensor, k: int) -> Tensor:
    """numpy's selection is ten times as fast as torch's on a CPU; the value is the same."""
    if flat.device.type == "cpu":
        i = flat.numel() - k
        return flat.new_tensor(np.partition(flat.detach().numpy(), i)[i])
    return flat.topk(k, sorted=True).values[-1]


def global_top_k_masks(scores: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Masks with exactly k ones in all, at the largest scores over all layers together."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    parts = torch.split(top_k_mask(flat, k), [score.numel() for score in scores.values()])
    return {
        name: part.view(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def _erk_raw(shapes: Shapes) -> dict[str, float]:
    return {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}


def _sizes(shapes: Shapes) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in shapes.items()}
