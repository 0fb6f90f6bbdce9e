"""Checkpoint: the named tensors of a network, and its masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """The state of a network.

    Attributes:
        weights: the state dict of the plain model: prunable weights with zeros at the positions
            that are pruned, all other parameters, and buffers.
        masks: by the names of the weights that they are of, True (or 1) at the positions that are
            kept. Empty where there are none.
        origin: where it comes from, for messages.
    """

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    origin: str = "the source"
