"""A training step of linear layers with sparse weights against the dense one, on a CPU.

The three products of a layer are measured apart and together: outputs, gradients of the inputs, and
the gradient of the weight, which the sparse form computes at active positions only. The weight
changes at each step, so the sparse form copies its values into both formats (of the weight and of
its transpose) each time. Results must agree with the dense ones. Training does not use this: it
shows what a step could gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.errors import UserError, require
from baselines.tools.masks import random_mask
from launch.config.fields import check_positive
from launch.runs.files import write_csv
from launch.sparse_inference.choice import relative_difference
from launch.sparse_inference.formats import Gather, no_beta_warnings
from launch.sparse_inference.layers import SparseLinear
from launch.sparse_inference.rounds import measure, threads_set

TOLERANCE = 1e-4  # of results in float32, relative to the largest one
PARTS = ("outputs", "gradient of inputs", "gradient of weight")
ALL = "all three"
FORMS = ("dense", "sparse", "dense, bfloat16")
Work = Callable[[], Tensor]


@dataclass(frozen=True)
class SparseStepBench:
    """Compare forward and backward passes of linear layers with sparse weights with dense ones."""

    layers: tuple[str, ...] = ("384x1536", "1536x384")
    """Inputs and outputs of the layers; the default are those of DeiT-S's MLP."""
    rows: int = 8 * 197
    """Input vectors per step; the default are the tokens of 8 images in DeiT-S."""
    sparsity: tuple[float, ...] = (0.9, 0.95, 0.98)
    """Sparsities of the random masks."""
    threads: int = 1
    """CPU threads."""
    rounds: int = 20
    """Measured rounds, after two that are not measured."""
    output: Path = Path("bench-sparse-step.csv")
    """File for the table."""

    def __post_init__(self) -> None:
        check_positive(rows=self.rows, threads=self.threads)
        check_positive(rounds=self.rounds)
        for layer in self.layers:
            _sizes(layer)
        for value in self.sparsity:
            require(0 < value < 1, f"sparsity must be in (0, 1), not {value}.")


def bench_sparse_step(options: SparseStepBench) -> int:
    """Print the table and write it as CSV. Return the exit code."""
    import pandas as pd

    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with threads_set(options.threads), torch.no_grad():
        for layer in options.layers:
            for sparsity in options.sparsity:
                rows += _measured(layer, sparsity, options)
    write_csv(options.output, rows)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    print("written:", options.output)
    return 0


def _sizes(layer: str) -> tuple[int, int]:
    """Return the inputs and outputs of "384x1536". Raises UserError."""
    inputs, x, outputs = layer.partition("x")
    if not (x and inputs.isdecimal() and outputs.isdecimal() and int(inputs) * int(outputs) > 0):
        raise UserError(f"a layer is INPUTSxOUTPUTS, such as 384x1536, not {layer!r}.")
    return int(inputs), int(outputs)


def _measured(layer: str, sparsity: float, options: SparseStepBench) -> list[dict[str, Any]]:
    inputs, outputs = _sizes(layer)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.rows, inputs, generator=generator)
    gradient = torch.randn(options.rows, outputs, generator=generator)
    kept = max(1, round((1 - sparsity) * inputs * outputs))
    mask = random_mask((outputs, inputs), kept, 0, layer)
    weight = torch.randn(outputs, inputs, generator=generator) * mask
    dense = _dense(weight, x, gradient)
    forms = {
        "dense": dense,
        "sparse": _sparse(weight, x, gradient),
        "dense, bfloat16": _dense(weight.bfloat16(), x.bfloat16(), gradient.bfloat16()),
    }
    _check(dense, forms["sparse"], weight != 0)
    works: dict[str, Callable[[], object]] = {}
    for form, parts in forms.items():
        works |= {f"{form}/{part}": work for part, work in parts.items()}
        works[f"{form}/{ALL}"] = partial(_do_all, list(parts.values()))
    times = measure(works, options.rounds)
    found = []
    for part in (*PARTS, ALL):
        ms = {f"{form} ms": 1e3 * times[f"{form}/{part}"].seconds for form in FORMS}
        ratio = times[f"sparse/{part}"].ratio / times[f"dense/{part}"].ratio
        facts = {"layer": layer, "sparsity": sparsity, "part": part}
        found.append({**facts, **ms, "sparse / dense": ratio})
    return found


def _do_all(works: Sequence[Work]) -> None:
    for work in works:
        work()


def _dense(weight: Tensor, x: Tensor, gradient: Tensor) -> dict[str, Work]:
    products: tuple[Work, ...] = (
        lambda: nn.functional.linear(x, weight),
        lambda: gradient @ weight,
        lambda: gradient.T @ x,
    )
    return dict(zip(PARTS, products, strict=True))


def _sparse(weight: Tensor, x: Tensor, gradient: Tensor) -> dict[str, Work]:
    forward, backward = _layer(weight), _layer(weight.T)
    rows, columns = weight.nonzero(as_tuple=True)
    order = (columns * len(weight) + rows).argsort()  # of the nonzeros in the transpose
    values = weight[rows, columns]
    with no_beta_warnings():
        pattern = torch.zeros_like(weight).masked_fill(weight != 0, 1.0).to_sparse_csr()
    pattern.values().zero_()

    def outputs() -> Tensor:
        _values_of(forward).copy_(values)
        return forward(x)  # type: ignore[no-any-return]

    def gradient_of_inputs() -> Tensor:
        _values_of(backward).copy_(values[order])
        return backward(gradient)  # type: ignore[no-any-return]

    def gradient_of_weight() -> Tensor:
        found: Tensor = torch.sparse.sampled_addmm(pattern, gradient.T.contiguous(), x)
        return found.values()

    return dict(zip(PARTS, (outputs, gradient_of_inputs, gradient_of_weight), strict=True))


def _layer(weight: Tensor) -> SparseLinear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    return SparseLinear(layer, Gather(weight))


def _values_of(layer: SparseLinear) -> Tensor:
    values = layer.product.values
    assert isinstance(values, Tensor)
    return values.view(-1)


def _check(dense: dict[str, Work], sparse: dict[str, Work], mask: Tensor) -> None:
    """Raise UserError unless the results agree, the gradient of the weight at active positions."""
    for part in PARTS:
        expected, found = dense[part](), sparse[part]()
        expected = expected[mask] if part == PARTS[-1] else expected
        worst = relative_difference(found, expected)
        if not worst <= TOLERANCE:
            raise UserError(f"sparse and dense {part} differ by {worst:.2g} of the largest one.")
