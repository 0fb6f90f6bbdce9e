"""A training step with sparse products against the dense one, on a CPU.

Layers: the forward pass of a linear layer, and both passes, with the products that trainings use.
Results must agree with the dense ones. Networks: a whole step of a network with random masks, where
the sparse form uses sparse products in those layers for which a measurement shows a gain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines import sparsify
from baselines.errors import UserError, check_inside_unit, check_positive, require
from baselines.tools.masks import random_mask
from launch.inputs import Inputs
from launch.measures.timing import measure, threads_set
from launch.models import find_model, make_model
from launch.runs.atomic import make_folder, write_csv
from launch.sparse_inference.format_choice import relative_difference
from launch.sparse_training.linear import Pattern, Product, both_passes, sparse_linear
from launch.sparse_training.products import SparseProducts

TOLERANCE = 1e-4  # of results in float32, relative to the largest one
RESULTS = ("outputs", "gradient of inputs", "gradient of weight")
PARTS = ("forward pass", "both passes")
STEP = "training step"
FORMS = ("dense", "sparse", "dense, bfloat16")
Works = dict[str, Callable[[], object]]  # by form


@dataclass(frozen=True)
class SparseStepBench:
    """Compare training steps with sparse products with dense ones: of layers and of networks."""

    layers: tuple[str, ...] = ("384x1536", "1536x384")
    """Inputs and outputs of the layers; the default are those of DeiT-S's MLP."""
    rows: int = 8 * 197
    """Input vectors per step; the default are the tokens of 8 images in DeiT-S."""
    networks: tuple[str, ...] = ("784-1000-1000-1000-10",)
    """Networks: widths of linear layers with ReLU, or models of timm."""
    batch: int = 128
    """Inputs of networks per step; images have 224 × 224 pixels."""
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
        check_positive(batch=self.batch, rounds=self.rounds)
        for layer in self.layers:
            _sizes(layer)
        for network in self.networks:
            if not _widths(network):
                find_model(network)
        for value in self.sparsity:
            check_inside_unit(sparsity=value)


def bench_sparse_step(options: SparseStepBench) -> int:
    """Print the table and write it as CSV. Return the exit code."""
    import pandas as pd

    make_folder(options.output.parent)
    rows = []
    with threads_set(options.threads):
        for layer in options.layers:
            for sparsity in options.sparsity:
                rows += _measured_layer(layer, sparsity, options)
        for network in options.networks:
            for sparsity in options.sparsity:
                rows.append(_measured_network(network, sparsity, options))
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


def _measured_layer(layer: str, sparsity: float, options: SparseStepBench) -> list[dict[str, Any]]:
    inputs, outputs = _sizes(layer)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.rows, inputs, generator=generator)
    gradient = torch.randn(options.rows, outputs, generator=generator)
    kept = max(1, round((1 - sparsity) * inputs * outputs))
    mask = random_mask((outputs, inputs), kept, 0, layer)
    weight = torch.randn(outputs, inputs, generator=generator) * mask
    pattern = Pattern(mask.view(-1).nonzero()[:, 0], weight)
    given: dict[str, tuple[Product, Tensor, Tensor, Tensor]] = {
        "dense": (F.linear, x, weight, gradient),
        "sparse": (partial(sparse_linear, pattern=pattern), x, weight, gradient),
        "dense, bfloat16": (F.linear, x.bfloat16(), weight.bfloat16(), gradient.bfloat16()),
    }
    _check(_results(*given["dense"]), _results(*given["sparse"]), mask)
    works: dict[str, Works] = {
        PARTS[0]: {form: partial(product, x, w) for form, (product, x, w, _) in given.items()},
        PARTS[1]: {form: partial(_results, *of_form) for form, of_form in given.items()},
    }
    return [_row(layer, sparsity, part, works[part], options) for part in PARTS]


def _results(product: Product, x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    x, weight = (tensor.detach().requires_grad_() for tensor in (x, weight))
    return both_passes(product, x, weight, gradient)


def _check(dense: list[Tensor], sparse: list[Tensor], mask: Tensor) -> None:
    """Raise UserError unless the results agree, the gradient of the weight at active positions."""
    expected = (*dense[:2], dense[2] * mask)
    for name, one, other in zip(RESULTS, sparse, expected, strict=True):
        worst = relative_difference(one, other)
        if not worst <= TOLERANCE:
            raise UserError(f"sparse and dense {name} differ by {worst:.2g} of the largest one.")


def _measured_network(name: str, sparsity: float, options: SparseStepBench) -> dict[str, Any]:
    """Measure steps of one network, which are taken in all forms in turn."""
    torch.manual_seed(0)
    model, inputs = _network(name)
    x, labels = torch.randn(options.batch, *inputs), torch.randint(10, (options.batch,))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    sparsifier = sparsify(
        model, optimizer, "random", sparsity=sparsity, steps=10**6, density="uniform"
    )
    products = SparseProducts(sparsifier)

    def step(form: str) -> None:
        in_bfloat16 = torch.autocast("cpu", torch.bfloat16, enabled=form == FORMS[2])
        with products.forward_pass() if form == "sparse" else in_bfloat16:
            loss = F.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    step("sparse")
    products.choose()
    print(f"{name}, sparsity {sparsity:g}: {products.news()}", flush=True)
    works: Works = {form: partial(step, form) for form in FORMS}
    return _row(name, sparsity, STEP, works, options)


def _network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network and the shape of an input."""
    if not (widths := _widths(name)):
        images = Inputs.image(3, 224)
        return make_model(name, 10, images), images.shape
    layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), (widths[0],)


def _widths(network: str) -> list[int]:
    """Return the widths of a network of linear layers; none for the name of another model."""
    texts = network.split("-")
    if len(texts) < 2 or not all(map(str.isdecimal, texts)):
        return []
    require(min(map(int, texts)) > 0, f"the widths of a network must be positive, not {network}.")
    return [int(text) for text in texts]


def _row(
    name: str, sparsity: float, part: str, works: Works, options: SparseStepBench
) -> dict[str, Any]:
    times = measure(works, options.rounds)
    ms = {f"{form} ms": 1e3 * times[form].seconds for form in FORMS}
    facts = {"layer": name, "sparsity": sparsity, "part": part}
    return {**facts, **ms, "sparse / dense": times["sparse"].ratio}
