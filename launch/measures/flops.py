"""Floating-point operations of a network's forward pass, dense and at given densities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Flops:
    """Operations of one example's forward pass: two per multiply-add of convolutions and products.

    Attributes:
        total: of the dense network.
        layers: of the modules with a weight, by the weight's name.
    """

    total: int
    layers: Mapping[str, int]

    def at(self, densities: Mapping[str, float]) -> float:
        """Return the operations if the named layers have these densities."""
        saved = ((1 - density) * self.layers[name] for name, density in densities.items())
        return self.total - sum(saved)


def count_flops(model: nn.Module, names: Iterable[str], example: Tensor) -> Flops:
    """Count the operations by running the model on one example.

    Args:
        names: weights of the layers to count separately.
        example: of shape (1, …).
    """
    was_training = model.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model.eval()(example)
    finally:
        model.train(was_training)
    by_module = counter.get_flop_counts()
    root = type(model).__name__

    def of(name: str) -> int:
        counts = by_module.get(f"{root}.{name.rpartition('.')[0]}", {})
        return sum(counts.values())

    total = sum(by_module["Global"].values())
    return Flops(total, {name: of(name) for name in names})
