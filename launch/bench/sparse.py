"""Inference with sparse weights against dense inference.

Each linear layer and convolution is measured in the formats of `launch.sparse_inference` and in
turn with the dense layer, on the inputs that it has in the network. It is replaced where a format
is faster. Then the network with the replaced layers is measured in turn with the dense one, in
both of torch's memory formats of images. Their outputs must agree. In float32, the dense network in
bfloat16 is measured as well, since it may be faster than sparse float32. On a GPU the formats are
those of `launch.sparse_inference.semi_structured`.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.errors import UserError, check_positive
from launch.bench.sparse_networks import Network, SparseSource
from launch.measures.timing import Times, measure, threads_set
from launch.ranks import find_device
from launch.runs.atomic import make_folder, write_csv
from launch.sparse_inference.format_choice import (
    DENSE,
    LayerFormat,
    check_outputs,
    choose_formats,
    with_formats,
)
from launch.sparse_inference.formats import held_bytes
from launch.training.result import device_name

CHANNELS_LAST, BFLOAT16, SPARSE = "dense, channels_last", "dense, bfloat16", "sparse"
COMMON = ("network", "precision", "sparsity", "batch")  # columns that are equal in a printed table
Row = dict[str, Any]


@dataclass(frozen=True)
class SparseBench:
    """Compare inference with sparse weights with dense inference: latency, throughput, memory and
    size of the file, for the whole network and by layer. Name the network before the options: RUN,
    RUN@EPOCH, a checkpoint file, or random."""

    source: SparseSource = field(default_factory=SparseSource)
    batch: tuple[int, ...] = (1, 16, 128)
    """Batch sizes."""
    threads: tuple[int, ...] = (1,)
    """Numbers of CPU threads."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of all weights and activations; a GPU has kernels for bfloat16 only."""
    device: str = "cpu"
    """auto, cpu, cuda or cuda:N. On a GPU, linear layers with a 2:4 pattern are measured with core
    torch's kernels."""
    rounds: int = 30
    """Measured rounds of each layer and of the network, after two that are not measured."""
    layers: bool = False
    """Print the layers, too. The file always has them."""
    output: Path = Path("bench-sparse.csv")
    """File for the table."""

    def __post_init__(self) -> None:
        if not self.batch or not self.threads:
            raise UserError("batch and threads need at least one number each.")
        check_positive(batch=min(self.batch), threads=min(self.threads), rounds=self.rounds)


def bench_sparse(options: SparseBench) -> int:
    """Print the tables and write them as CSV. Return the exit code."""
    rows: list[Row] = []
    device = find_device(options.device)
    if device.type == "cuda" and options.precision == "float32":
        raise UserError("--device cuda needs --precision bfloat16: there is no 2:4 float32.")
    make_folder(options.output.parent)
    for network in options.source.networks():
        for threads in options.threads:
            for batch in options.batch:
                with threads_set(threads):
                    found = _measure_network(network, batch, options, device)
                name = device_name(device) if device.type == "cuda" else "cpu"
                rows += [{"device": name, "threads": threads, **row} for row in found]
                where = name if name != "cpu" else f"{threads} thread{'s' * (threads > 1)}"
                print(_verdict(found, network, batch, where))
                print(_text([row for row in found if not row["layer"]]))
                if options.layers:
                    print(_text([row for row in found if row["layer"]]))
                print(flush=True)
                write_csv(options.output, rows)
    print("written:", options.output)
    return 0


def _measure_network(
    network: Network, batch: int, options: SparseBench, device: torch.device
) -> list[Row]:
    """Return the rows of a network at one batch size: of the network, and of its layers."""
    dense = network.model.to(device)
    if options.precision == "bfloat16":
        dense = copy.deepcopy(dense).bfloat16()
    like = next(dense.parameters())
    x = network.inputs.random(batch, torch.Generator().manual_seed(0), like)
    choices = choose_formats(dense, x, options.rounds)
    models = _variants(dense, choices, network.inputs.is_image)
    error = check_outputs(dense, models[SPARSE], x) if SPARSE in models else 0.0
    times = _times(models, x, options.rounds)
    values = (network.name, options.precision, round(network.sparsity, 4), batch)
    common = dict(zip(COMMON, values, strict=True))
    rows = [
        {
            **common,
            "layer": "",
            "format": name,
            **_costs(times[name], batch, held_bytes(model)),
            "file MiB": _file_bytes(model) / 2**20,
            "error": error if name == SPARSE else None,
        }
        for name, model in models.items()
    ]
    return rows + [{**common, **row} for choice in choices for row in _layer_rows(choice, batch)]


def _bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16() if x.is_floating_point() else x


def _variants(dense: nn.Module, choices: list[LayerFormat], is_image: bool) -> dict[str, nn.Module]:
    models = {DENSE: dense}
    layout = torch.channels_last if is_image else torch.preserve_format
    if is_image:
        models[CHANNELS_LAST] = copy.deepcopy(dense).to(memory_format=layout)
    if next(dense.parameters()).dtype == torch.float32:
        models[BFLOAT16] = copy.deepcopy(dense).bfloat16().to(memory_format=layout)
    if any(choice.is_sparse for choice in choices):
        models[SPARSE] = with_formats(dense, choices)
    return models


@torch.no_grad()
def _times(models: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, Times]:
    inputs = dict.fromkeys(models, x)
    if CHANNELS_LAST in models:
        inputs[CHANNELS_LAST] = x.contiguous(memory_format=torch.channels_last)
    inputs[BFLOAT16] = _bfloat16(inputs.get(CHANNELS_LAST, x))
    return measure(
        {name: lambda name=name: models[name](inputs[name]) for name in models},  # type: ignore[misc]
        rounds,
        x.device,
    )


def _costs(times: Times, batch: int, held: int) -> Row:
    return {
        "ms": 1e3 * times.seconds,
        "ratio": times.ratio,
        "inputs/s": batch / times.seconds,
        "MiB": held / 2**20,
    }


def _layer_rows(choice: LayerFormat, batch: int) -> Iterator[Row]:
    """Yield one row per format, with its costs or the reason why it was not measured."""
    facts = {
        "layer": choice.name,
        "kind": choice.kind,
        "shape": "×".join(map(str, choice.shape)),
        "density": choice.density,
    }
    if choice.reason:
        yield {**facts, "format": DENSE, "chosen": True, "reason": choice.reason}
    for name, times in choice.times.items():
        costs = _costs(times, batch, choice.sizes[name])
        yield {**facts, "format": name, **costs, "chosen": name == choice.format}
    for name, reason in choice.failed.items():
        yield {**facts, "format": name, "chosen": False, "reason": reason}


def _file_bytes(model: nn.Module) -> int:
    """Return the size of the file of a state dict."""
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    return stream.tell()


def _verdict(rows: list[Row], network: Network, batch: int, where: str) -> str:
    """Return a line that says which of the networks is the fastest."""
    facts = f"{rows[0]['precision']}, sparsity {network.sparsity:.3f}, batch {batch}"
    what = f"{network.name}, {facts}, {where}: "
    ratios = {row["format"]: row["ratio"] for row in rows if not row["layer"]}
    low = ratios.pop(BFLOAT16, None)
    layers = {row["layer"] for row in rows if row["layer"]}
    replaced = [row for row in rows if row["layer"] and row["chosen"] and row["format"] != DENSE]
    if not replaced:
        return what + f"dense wins: none of {len(layers)} layers is faster in a sparse format"
    sparse = ratios.pop(SPARSE)
    fastest = min(ratios, key=lambda name: ratios[name])
    share = sparse / ratios[fastest]
    count = f"{len(replaced)} of {len(layers)} layers are sparse"
    if share >= 1:
        return what + f"dense wins: sparse takes {share:.2f} × the time of {fastest} ({count})"
    what += f"sparse is {1 / share:.2f} × as fast as {fastest} ({count})"
    if low is not None and low < sparse:
        what += f", but dense in bfloat16 is {sparse / low:.2f} × as fast as sparse in float32"
    return what


def _text(rows: list[Row]) -> str:
    import pandas as pd

    table = pd.DataFrame([{k: v for k, v in row.items() if v != ""} for row in rows])
    table = table.drop(columns=list(COMMON)).dropna(axis="columns", how="all")
    return table.to_string(index=False, float_format="{:.4g}".format, na_rep="")
