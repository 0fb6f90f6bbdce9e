"""Checkpoint: the named tensors of a network, and its masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from baselines.errors import UserError


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


def entries_of(source: Checkpoint, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the source's tensors of the given names and shapes.

    Raises:
        UserError: one is missing, of another shape, or not finite.
    """
    return {name: _entry(source, name, tensor) for name, tensor in like.items()}


def _entry(source: Checkpoint, name: str, like: Tensor) -> Tensor:
    if name not in source.weights:
        raise UserError(f"{source.origin} has no {name}.")
    value = source.weights[name]
    if value.shape != like.shape:
        shapes = f"shape {tuple(value.shape)}, not {tuple(like.shape)}"
        raise UserError(f"{source.origin}: {name} has {shapes}.")
    if like.is_floating_point() and not value.is_floating_point():
        raise UserError(f"{source.origin}: {name} has type {value.dtype}, not floating point.")
    ends = value.aminmax() if value.is_floating_point() and value.numel() else ()
    if not all(end.isfinite() for end in ends):
        raise UserError(f"{source.origin}: {name} has values that are not finite.")
    return value
