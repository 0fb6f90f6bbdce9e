"""Signs of weights: how many flip between two states of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def signs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """−1, 0 or 1 for each weight, as int8."""
    return {name: weight.detach().sign().to(torch.int8) for name, weight in weights.items()}


class Flips(NamedTuple):
    """How many signs are opposite, of how many that can be compared."""

    flips: int
    compared: int

    @property
    def share(self) -> float:
        """NaN where nothing can be compared."""
        return self.flips / self.compared if self.compared else float("nan")


def count_flips(
    before: Mapping[str, Tensor], now: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> dict[str, Flips]:
    """Sign flips by layer: weights whose sign is the opposite of what it was.

    A weight that is or was exactly zero has no sign there: it is neither a flip nor compared.

    Args:
        before, now: weights or signs, by layer.
        masks: True at the positions to look at.
    """
    counts = []
    for name, mask in masks.items():
        product = before[name].sign() * now[name].sign() * mask
        counts += [(product < 0).sum(), product.count_nonzero()]
    found = torch.stack(counts).tolist()
    return {k: Flips(*found[2 * i : 2 * i + 2]) for i, k in enumerate(masks)}


def agreement(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> dict[str, float]:
    """Fraction of equal signs by layer, where neither is zero; NaN where that is nowhere.

    Args:
        one, other: weights or signs, by layer.
        masks: True at the positions to look at.
    """
    return {name: 1 - found.share for name, found in count_flips(one, other, masks).items()}


def total(found: Iterable[Flips]) -> Flips:
    """Over several layers."""
    found = list(found)
    return Flips(sum(f.flips for f in found), sum(f.compared for f in found))


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
        drawn[name] = int(none.count_nonzero())
    return weights, drawn
