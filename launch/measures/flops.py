"""Floating-point operations of a network's forward pass, dense and at given densities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Flops:
    """Operations of one example's forward pass: two per multiply-add of convolutions and
    matrix products.

    Attributes:
        total: of the dense network.
        layers: of the products with a weight, by the weight's name.
    """

    total: int
    layers: Mapping[str, int]

    def at(self, densities: Mapping[str, float]) -> float:
        """Return the operations if the named layers have these densities."""
        saved = ((1 - density) * self.layers[name] for name, density in densities.items())
        return self.total - sum(saved)


def count_flops(model: nn.Module, weights: Mapping[str, Tensor], example: Tensor) -> Flops:
    """Count the operations by running the model on one example.

    Args:
        weights: by name, those whose products are also counted separately.
        example: of shape (1, …).
    """
    was_training, counter = model.training, _Counter(weights)
    try:
        with torch.no_grad(), _products_alone(), counter:
            model.eval()(example)
    finally:
        model.train(was_training)
    return Flops(counter.total, counter.layers)


@contextmanager
def _products_alone() -> Iterator[None]:
    """Compute without kernels that do all of an attention or recurrent layer."""
    mha, mkldnn, cudnn = torch.backends.mha, torch.backends.mkldnn, torch.backends.cudnn
    were = mha.get_fastpath_enabled(), mkldnn.enabled, cudnn.enabled
    try:
        mha.set_fastpath_enabled(False)
        mkldnn.enabled = cudnn.enabled = False  # type: ignore[assignment]
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(were[0])
        mkldnn.enabled, cudnn.enabled = were[1:]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of all products, and of those that take a weight.

    Attributes:
        total: of all products.
        layers: of the products that take a weight or a view of it, by its name.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total, self.layers = 0, dict.fromkeys(weights, 0)
        self._weights = weights

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            operations = formula(*args, **(kwargs or {}), out_val=out)
            self.total += operations
            places = [x.data_ptr() for x in args if isinstance(x, Tensor)]
            for name, weight in self._weights.items():
                # weights of a recurrent layer on a GPU lie in one storage, one after the other
                start = weight.data_ptr()
                if any(start <= place < start + weight.nbytes for place in places):
                    self.layers[name] += operations
        return out
