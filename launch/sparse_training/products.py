"""SparseProducts: computes a training's linear layers by sparse products where these are faster.

A layer is measured on inputs of its own shapes, forward and backward, after the first step and
after each epoch in which its density has changed by a factor of at least two. The choice is part of
the state of a training, since products differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from baselines.engine.layer import Layer
from baselines.errors import require
from baselines.sparsifier import Sparsifier
from launch.measures.timing import Measure, measure
from launch.ranks import Ranks
from launch.sparse_training.linear import Pattern, both_passes, sparse_linear

FASTER = 0.9  # largest ratio to the dense layer's time at which sparse products are used
CHANGED = 2.0  # factor between densities from which a layer is measured again
ROUNDS = 5  # of a measurement, at least
ALONE = Ranks(0, 1, torch.device("cpu"))


class SparseProducts:
    """Computes layers with a sparse mask by sparse products, where a measurement shows a gain.

    Everything else stays dense: weights that are used in another way than by `F.linear`, what is
    under autocast, and all layers at a step at which the method needs dense gradients.

    Attributes:
        choices: for each layer that was measured, its density, and the time of sparse products as a
            ratio to that of dense ones.

    Args:
        sparsifier: of a model on the CPU that is not compiled.
        ranks: of the training; rank 0 measures for all.
        timer: measures alternatives.
    """

    def __init__(
        self, sparsifier: Sparsifier, ranks: Ranks = ALONE, timer: Measure = measure
    ) -> None:
        self.sparsifier, self.ranks, self._timer = sparsifier, ranks, timer
        self.choices: dict[str, tuple[float, float]] = {}
        self._inputs: dict[str, tuple[int, bool]] = {}  # rows, and whether they need a gradient
        self._patterns: dict[str, Pattern] = {}
        self._last_text = ""

    def news(self) -> str:
        """Return the number of layers with sparse products as a text; empty if it is unchanged."""
        chosen = sum(map(self._is_sparse, self.sparsifier.net))
        text = f"sparse products in {chosen} of {len(self._inputs)} linear layers"
        before, self._last_text = self._last_text, text
        return "" if text == before else text

    @contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Compute a forward pass, and its backward pass, by the choices."""
        layers = {id(layer.weight): layer for layer in self.sparsifier.net}
        is_dense = self._needs_dense or not any(map(self._is_sparse, layers.values()))
        if is_dense and self._inputs:
            yield
            return

        def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            layer = layers.get(id(weight))
            if layer is None or not _is_served(input, weight):
                return F.linear(input, weight, bias)
            self._inputs[layer.name] = input.numel() // input.shape[-1], input.requires_grad
            if is_dense or not self._is_sparse(layer):
                return F.linear(input, weight, bias)
            return sparse_linear(input, weight, bias, pattern=self._pattern(layer))

        with _LinearCalls(linear):
            yield

    def choose(self) -> None:
        """Measure layers that are new or whose density has changed.

        Call it after the first step and after each epoch, on all ranks.
        """
        due = [layer for layer in self.sparsifier.net if self._is_due(layer)]
        found = {layer.name: self._measure_layer(layer) for layer in due if self.ranks.is_first}
        self.choices |= self.ranks.from_first(found)

    @property
    def _needs_dense(self) -> bool:
        method, step = self.sparsifier.method, self.sparsifier.step
        return not self.sparsifier.is_done and method.needs_dense_gradients(step)

    def _is_sparse(self, layer: Layer) -> bool:
        _, ratio = self.choices.get(layer.name, (1.0, 1.0))
        return ratio <= FASTER and layer.index is not None and layer.nnz > 0

    def _is_due(self, layer: Layer) -> bool:
        if layer.name not in self._inputs or layer.index is None or not layer.nnz:
            return False
        before, _ = self.choices.get(layer.name, (0.0, 1.0))
        return not before / CHANGED < _density(layer) < before * CHANGED

    def _measure_layer(self, layer: Layer) -> tuple[float, float]:
        rows, needs_gradient = self._inputs[layer.name]
        weight = layer.weight.detach().clone().requires_grad_()
        generator = torch.Generator().manual_seed(0)
        x, gradient = (
            torch.randn(rows, width, generator=generator, dtype=weight.dtype)
            for width in reversed(weight.shape)
        )
        x.requires_grad_(needs_gradient)
        sparse = partial(sparse_linear, pattern=self._pattern(layer))
        works = {
            "dense": partial(both_passes, F.linear, x, weight, gradient),
            "sparse": partial(both_passes, sparse, x, weight, gradient),
        }
        return _density(layer), self._timer(works, ROUNDS, weight.device)["sparse"].ratio

    def _pattern(self, layer: Layer) -> Pattern:
        """Return the pattern of a layer's mask."""
        assert layer.index is not None
        known = self._patterns.get(layer.name)
        if known is None or known.index is not layer.index:
            known = self._patterns[layer.name] = Pattern(layer.index, layer.weight)
        return known

    def state_dict(self) -> dict[str, list[float]]:
        """Return the choices, which a resumed training needs."""
        return {name: list(choice) for name, choice in self.choices.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Load what `state_dict` returned."""
        self.choices = {name: (density, ratio) for name, (density, ratio) in state.items()}


class _LinearCalls(TorchFunctionMode):
    """Calls another function in place of `F.linear`."""

    def __init__(self, linear: Callable[..., Tensor]) -> None:
        super().__init__()
        self.linear = linear

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return (self.linear if func is F.linear else func)(*args, **(kwargs or {}))


def _is_served(x: Tensor, weight: Tensor) -> bool:
    """Return whether there are sparse products of inputs with a weight."""
    return (
        x.dtype == weight.dtype
        and weight.dtype in (torch.float32, torch.float64)
        and x.device == weight.device == torch.device("cpu")
        and weight.is_contiguous()
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def _density(layer: Layer) -> float:
    return layer.nnz / layer.weight.numel()


def check_products(precision: str, device: torch.device | None) -> None:
    """Check that a training can use sparse products.

    Args:
        device: None if it is not known.

    Raises:
        UserError: it cannot.
    """
    on_cpu = device is None or device.type == "cpu"
    require(on_cpu, "--sparse-kernels auto needs a CPU: give --device cpu too.")
    in_float32 = precision == "float32"
    require(in_float32, "--sparse-kernels auto needs float32: give --precision float32 too.")
