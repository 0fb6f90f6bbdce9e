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
