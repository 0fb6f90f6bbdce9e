"""Count the multiplications and additions of a forward pass, dense and at given densities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Flops:
    """Operations of the forward pass of one image: two per multiply-add.

    Attributes:
        total: operations of convolutions and matrix products, with all weights.
        layers: part of them in each module with a prunable weight, by the weight's name.
    """

    total: int
    layers: Mapping[str, int]

    def at(self, densities: Mapping[str, float]) -> float:
        """Return the operations with that fraction of each named layer's weights."""
        saved = ((1 - density) * self.layers[name] for name, density in densities.items())
        return self.total - sum(saved)


def count_flops(model: nn.Module, names: Iterable[str], shape: tuple[int, int, int]) -> Flops:
    """Count operations by running the model on one image.

    Args:
        names: weights of the layers that are counted on their own.
        shape: shape of an image: channels, height, width.
    """
    first = next(model.parameters())
    was_training = model.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model.eval()(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
    finally:
        model.train(was_training)
    by_module = counter.get_flop_counts()
    root = type(model).__name__

    def of(name: str) -> int:
        counts = by_module.get(f"{root}.{name.rpartition('.')[0]}", {})
        return sum(counts.values())

    total = sum(by_module["Global"].values())
    return Flops(total, {name: of(name) for name in names})
