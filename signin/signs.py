"""Signs of weights: numbers of flips and agreement between two states of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def signs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return −1, 0 or 1 for each weight, as int8, by layer."""
    return {name: weight.detach().sign().to(torch.int8) for name, weight in weights.items()}


class Flips(NamedTuple):
    """Number of opposite signs, and number of signs that can be compared."""

    flips: int
    compared: int

    @property
    def share(self) -> float:
        """Flips as a fraction of the compared signs; NaN if there are none."""
        return self.flips / self.compared if self.compared else float("nan")


def count_flips(
    before: Mapping[str, Tensor], now: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> dict[str, Flips]:
    """Count sign flips by layer: weights whose sign is opposite in the two states.

    A weight that is or was exactly zero has no sign: it is neither a flip nor compared.

    Args:
        before, now: weights or signs by layer, of equal shapes.
        masks: by layer, True at the positions to count.
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
    """Return the fraction of equal signs by layer among nonzero pairs; NaN if there are none.

    Args:
        one, other: weights or signs by layer, of equal shapes.
        masks: by layer, True at the positions to count.
    """
    return {name: 1 - found.share for name, found in count_flips(one, other, masks).items()}


def total(found: Iterable[Flips]) -> Flips:
    """Return the sum of the counts of several layers."""
    found = list(found)
    return Flips(sum(f.flips for f in found), sum(f.compared for f in found))
