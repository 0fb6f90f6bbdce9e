"""Transplants: weights with the mask, the signs and the magnitudes of different checkpoints.

"Sign-In to the Lottery" (arXiv 2504.12801), Tables 1 and 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from baselines.checkpoint import Checkpoint, entries_of
from baselines.engine.sparse_model import SparseModel
from baselines.errors import UserError
from baselines.tools.masks import seeded

PARTS = ("mask", "signs", "magnitudes", "others")  # others: all that is not pruned
RANDOM = "random"  # the source that is a fresh initialisation

Named = Mapping[str, Tensor]
MagnitudeKind = Literal["each", "layer"]


class Transplanted(NamedTuple):
    """Weights by layer, and by layer how many signs were drawn at random."""

    weights: dict[str, Tensor]
    drawn: dict[str, int]


def transplant_weights(
    masks: Named, signs: Named, magnitudes: Named, generator: torch.Generator, flip: float = 0.0
) -> Transplanted:
    """Combine masks, signs and magnitudes.

    Args:
        masks: by layer, True at the positions that are kept.
        signs, magnitudes: weights of the same shapes. The result has the type of the magnitudes,
            or float32 if that is more precise.
        generator: of the CPU; draws a sign where `signs` is zero, and which signs are reversed.
        flip: fraction of the kept weights, drawn at random, whose sign is reversed.
    """
    weights, drawn = {}, {}
    for name, mask in masks.items():
        sign = signs[name].detach().cpu().sign().float()
        coins = torch.rand(sign.shape, generator=generator, device="cpu")
        unknown = mask.cpu() & (sign == 0)
        sign = torch.where(unknown, (coins < 0.5) * 2.0 - 1.0, sign)
        reversed_ = torch.rand(sign.shape, generator=generator, device="cpu") < flip
        magnitude = magnitudes[name].detach().cpu().abs()
        magnitude = magnitude.to(torch.promote_types(magnitude.dtype, torch.float32))
        weight = torch.where(reversed_, -sign, sign) * magnitude
        weights[name] = torch.where(mask.cpu(), weight, 0.0)  # the mean of an empty layer is NaN
        drawn[name] = int(unknown.count_nonzero())
    return Transplanted(weights, drawn)


def seeded_transplant(
    masks: Named, signs: Named, magnitudes: Named, seed: int, kind: MagnitudeKind, flip: float
) -> Transplanted:
    """Combine masks, signs and magnitudes as the method `fixed` and `signbench transplant` do.

    Args:
        kind: whether each weight has its own magnitude, or the mean of its layer.
        masks, signs, magnitudes, flip: as in `transplant_weights`.
    """
    sizes = layer_means(magnitudes, masks) if kind == "layer" else magnitudes
    return transplant_weights(masks, signs, sizes, seeded(seed, "transplant"), flip)


def kept_zeros(masks: Named, weights: Named) -> dict[str, int]:
    """Return by layer how many of the kept weights are zero."""
    return {k: int((mask.cpu() & (weights[k] == 0)).count_nonzero()) for k, mask in masks.items()}


def masks_of(source: Checkpoint, like: Named) -> dict[str, Tensor]:
    """Return the source's masks of all prunable layers, or else where its weights are not zero.

    Masks without a single zero count as none if there are weights: those of STR, SR-STE and
    Top-KAST in training, whose weights are sparse. A boolean entry under a weight's name is its
    mask: `signbench export` writes a file of these.

    Args:
        like: the prunable weights, or others of their shapes, by layer.

    Raises:
        UserError: a layer is missing or of another shape, or a mask does not consist of 0 and 1.
    """
    found = {}
    all_ones = all(bool((mask == 1).all()) for mask in source.masks.values())
    for name, weight in like.items():
        mask, entry = source.masks.get(name), source.weights.get(name)
        if entry is not None and entry.dtype == torch.bool:
            mask = entry
        elif mask is None or (all_ones and name in source.weights):
            mask = entries_of(source, {name: weight})[name] != 0
        if mask.shape != weight.shape:
            shapes = f"shape {tuple(mask.shape)}, not {tuple(weight.shape)}"
            raise UserError(f"{source.origin}: the mask of {name} has {shapes}.")
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise UserError(f"{source.origin}: the mask of {name} has values other than 0 and 1.")
        found[name] = mask.bool()
    return found


def weights_of(source: Checkpoint | None, own: Named) -> dict[str, Tensor]:
    """Return the source's weights of all prunable layers, or `own` if there is no source.

    Raises:
        UserError: one is missing, of another shape, or not finite.
    """
    return dict(own) if source is None else entries_of(source, own)


def layer_means(magnitudes: Named, masks: Named) -> dict[str, Tensor]:
    """Replace all magnitudes of a layer by their mean over the layer's kept weights."""
    kept = {k: size.abs()[masks[k].to(size.device)] for k, size in magnitudes.items()}
    return {k: kept[k].mean().expand_as(size) for k, size in magnitudes.items()}


def prunable_of(source: Checkpoint) -> dict[str, Tensor]:
    """Return the weights that have masks; if there are none, all matrices and kernels.

    Matrices and kernels are floating-point tensors of two or more dimensions named weight.

    Raises:
        UserError: there are none of these either.
    """
    names = [name for name in source.weights if name in source.masks] or [
        name
        for name, tensor in source.weights.items()
        if tensor.ndim >= 2 and tensor.is_floating_point() and name.split(".")[-1] == "weight"
    ]
    names = [name for name in names if source.weights[name].numel()]
    if not names:
        raise UserError(f"{source.origin} has no weights that can be pruned.")
    return {name: source.weights[name] for name in names}


@torch.no_grad()
def load_others(source: Checkpoint, net: SparseModel) -> None:
    """Load all parameters and buffers that are not prunable weights.

    Raises:
        UserError: one is missing, of another shape, or not finite. Nothing is loaded then.
    """
    state = {k: v for k, v in net.model.state_dict().items() if k not in net.layers}
    for name, value in entries_of(source, state).items():
        state[name].copy_(value)
