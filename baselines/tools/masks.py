"""Make masks with an exact number of ones: at random, by the largest scores, by an update."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from baselines.engine import device
from baselines.errors import UserError
from baselines.tools.density import Shapes, capped, keep_count, layer_counts
from baselines.tools.largest import largest

TINY = 1e-30  # below all scores that are not zero


def seeded(*parts: int | str) -> torch.Generator:
    """Return a generator of the CPU that depends on numbers and names only, not on hash().

    Draw with device="cpu": the default device of a user's program may be another.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def random_mask(shape: tuple[int, ...], k: int, seed: int, name: str) -> Tensor:
    """Return a uniformly random mask with exactly k ones; it depends on seed and layer name."""
    order = torch.randperm(math.prod(shape), generator=seeded(seed, name), device="cpu")
    mask = torch.zeros_like(order, dtype=torch.bool)
    mask[order[:k]] = True
    return mask.view(shape)


def random_masks(kind: str, shapes: Shapes, sparsity: float, seed: int) -> dict[str, Tensor]:
    """Return random masks with the layer-wise densities of a kind (see `layer_counts`).

    Raises:
        UserError: the kind is unknown, or the sparsity is out of range.
    """
    counts = layer_counts(kind, shapes, sparsity)
    return {name: random_mask(tuple(shapes[name]), k, seed, name) for name, k in counts.items()}


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """Return a mask with exactly k ones at the largest scores; the first of equal ones wins.

    Raises:
        UserError: a score is NaN.
    """
    flat = scores.detach().flatten()
    _check_scores(flat)
    if k <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if device.on_cpu(flat):  # where numpy is ten times as fast as torch
        values = flat.float() if flat.dtype == torch.bfloat16 else flat
        return torch.from_numpy(largest(values.numpy(), k)).view(scores.shape)
    threshold = flat.topk(k, sorted=True).values[-1]
    mask = flat > threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    mask[ties[: k - int(mask.sum())]] = True
    return mask.view(scores.shape)


def top_k_of_rows(scores: Tensor, k: int | Tensor) -> Tensor:
    """Return a mask of the k largest scores of each row; the first of equal ones wins.

    Args:
        scores: (rows, columns).
        k: of all rows, or (rows,).
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices
    mask = torch.zeros_like(scores, dtype=torch.bool)
    if isinstance(k, Tensor):
        places = torch.arange(scores.shape[1], device=scores.device)
        return mask.scatter_(1, order, places < k.unsqueeze(1))
    return mask.scatter_(1, order[:, :k], True)


def global_top_k_masks(scores: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Return masks with exactly k ones in total, at the largest scores of all layers together.

    Raises:
        UserError: a score is NaN.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    parts = torch.split(top_k_mask(flat, k), [score.numel() for score in scores.values()])
    return {
        name: part.view(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def global_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return masks of a sparsity that keep the largest scores of all layers together.

    Global magnitude pruning is `net.set_masks(global_masks(net.magnitudes(), sparsity))`.

    Args:
        scores: scores of all prunable weights by layer, of the weights' shapes.
        sparsity: fraction of zeros over all layers, in [0, 1).

    Raises:
        UserError: a score is NaN, or the sparsity is out of range.
    """
    numel = sum(score.numel() for score in scores.values())
    return global_top_k_masks(scores, keep_count(numel, sparsity))


def layer_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return masks that keep the largest scores of each layer, at the same sparsity in all layers.

    Args:
        scores: scores by layer; negative where a weight is not to be kept.
        sparsity: fraction of zeros over all layers, met exactly, in [0, 1).

    Raises:
        UserError: a score is NaN, or the sparsity is out of range.
    """
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    left = {name: int((score >= 0).sum()) for name, score in scores.items()}
    counts = capped(layer_counts("uniform", shapes, sparsity), left)
    return {name: top_k_mask(scores[name], k) for name, k in counts.items()}


def scope_masks(
    scores: Mapping[str, Tensor], sparsity: float, scope: Literal["layer", "global"]
) -> dict[str, Tensor]:
    """Return `layer_masks` or `global_masks`. Raises UserError as these do."""
    return (global_masks if scope == "global" else layer_masks)(scores, sparsity)


def strongest(weight: Tensor, mask: Tensor, k: int) -> Tensor:
    """Return a mask of the k active weights with the largest magnitude."""
    return top_k_mask(weight.abs().masked_fill(~mask, -1.0), k)


def drop_and_grow(weight: Tensor, mask: Tensor, growth: Tensor, fraction: float) -> Tensor:
    """Return the mask after one update of SET or RigL, with as many ones as before.

    Of the n active weights, the int(n·fraction) with the smallest magnitude are dropped. As many
    grow: those with the largest growth score that are not active then, dropped ones included.

    Args:
        growth: non-negative scores of the weight's shape.
    """
    return replaced(weight, mask, growth, int(int(mask.sum()) * fraction))


def replaced(weight: Tensor, mask: Tensor, growth: Tensor, count: int) -> Tensor:
    """Return a mask that drops `count` weights and grows as many (see `drop_and_grow`)."""
    kept = strongest(weight, mask, int(mask.sum()) - count)
    return kept | top_k_mask(growth.masked_fill(kept, -1.0), count)


def ranking(weight: Tensor, mask: Tensor, growth: Tensor, fraction: float) -> Tensor:
    """Return scores of the weights that `drop_and_grow` keeps, above 1, and of all others.

    The former are ordered by magnitude; the others have scores in [0, 1] and are ordered by growth.

    Raises:
        UserError: a score is NaN.
    """
    n = int(mask.sum())
    kept = strongest(weight, mask, n - int(n * fraction))
    precise = torch.promote_types(weight.dtype, torch.float32)  # 1 + |w| has ties in bfloat16
    size, growth = weight.abs().to(precise), growth.to(precise)
    by_magnitude = 1 + size / size.max().clamp_min(TINY)
    scores = torch.where(kept, by_magnitude, growth / growth.max().clamp_min(TINY))
    _check_scores(scores)
    return scores


def _check_scores(scores: Tensor) -> None:
    if scores.numel() and bool(scores.min().isnan()):
        raise UserError("a score is NaN.")


def count_ones(masks: Mapping[str, Tensor]) -> int:
    """Return the number of ones in all masks together."""
    return sum(int(mask.count_nonzero()) for mask in masks.values())
