"""Signs of weights: how many flip between two states of a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def signs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """−1, 0 or 1 for each weight, as int8."""
    return {name: weight.detach().sign().to(torch.int8) for name, weight in weights.items()}


def count_flips(
    before: Mapping[str, Tensor], now: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> dict[str, int]:
    """Sign flips by layer: active weights whose sign is the opposite of what it was.

    A weight that is or was exactly zero has no sign and is not counted.

    Args:
        before, now: weights or signs, by layer.
        masks: True at the positions to look at.
    """
    counts = [((before[k].sign() * now[k].sign() < 0) & masks[k]).sum() for k in masks]
    return dict(zip(masks, torch.stack(counts).tolist(), strict=True))


def agreement(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> dict[str, float]:
    """Fraction of equal signs by layer, where neither is zero; NaN where that is nowhere.

    Args:
        one, other: weights or signs, by layer.
        masks: True at the positions to look at.
    """
    found = {}
    for name, mask in masks.items():
        product = (one[name].sign() * other[name].sign())[mask]
        both = int((product != 0).sum())
        found[name] = int((product > 0).sum()) / both if both else float("nan")
    return found


def transplant(
    masks: Mapping[str, Tensor],
    signs: Mapping[str, Tensor],
    magnitudes: Mapping[str, Tensor],
    generator: torch.Generator,
    flip: float = 0.0,
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Weights with the mask, the signs and the magnitudes of three different sources (Table 1).

    Args:
        masks: by layer, True at the positions that are kept.
        signs, magnitudes: weights of the same shapes; one gives signs, the other sizes.
        generator: draws a sign where the source has a zero, and what is flipped.
        flip: fraction of all kept weights, drawn at random, whose sign is then reversed.

    Returns:
        The weights, and by layer how many signs had to be drawn.
    """
    weights, drawn = {}, {}
    for name, mask in masks.items():
        sign = signs[name].detach().cpu().sign().float()
        coins = torch.rand(sign.shape, generator=generator)
        none = mask.cpu() & (sign == 0)
        sign = torch.where(none, (coins < 0.5) * 2.0 - 1.0, sign)
        turned = torch.rand(sign.shape, generator=generator) < flip
        size = magnitudes[name].detach().cpu().abs().float()
        weights[name] = torch.where(turned, -sign, sign) * size * mask.cpu()
        drawn[name] = int(none.sum())
    return weights, drawn
