"""The result of a run, from its last epoch and its rows."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from itertools import groupby
from typing import cast

import torch
from torch import Tensor

from analysis.contents import EpochRow, KernelSpeed, LayerRow, Result, Validation
from launch.config.run import Run
from launch.measures.flops import count_flops
from launch.training.kernel_speed import kernel_speed
from launch.training.loop import Loop


def make_result(
    run: Run, loop: Loop, epochs: Sequence[EpochRow], layers: Sequence[LayerRow]
) -> Result:
    """Return the contents of result.json.

    Args:
        epochs, layers: the rows of all epochs.
    """
    net, ranks = loop.sparsifier.net, loop.ranks
    last, seconds = epochs[-1], [row["seconds"] for row in epochs]
    result = {
        "accuracy": last["test_accuracy"],
        "loss": last["test_loss"],
        "train_accuracy": last["train_accuracy"],
        **{name: last[name] for name in Validation.__annotations__ if name in last},  # type: ignore[literal-required]
        "sparsity": last["sparsity"],
        "sparsity_all": last["sparsity_all"],
        "tolerance": loop.sparsifier.method.tolerance,
        "active": net.nnz,
        "prunable": net.numel,
        "parameters": sum(p.numel() for p in net.model.parameters()),
        "flips": last["flips"],
        **_costs(run, loop, layers),
        **loop.data.shape,
        "mask_hash": mask_hash(net.masks),
        "epochs": loop.epochs,
        "ranks": ranks.world,
        "all_ranks": [n for n, _ in groupby(row["ranks"] for row in epochs if "ranks" in row)],
        "device": device_name(ranks.device),
        "seconds": sum(seconds),
        "seconds_per_epoch": statistics.median(seconds),
        **_kernel_speed(run, loop),
    }
    return cast("Result", result)


def _costs(run: Run, loop: Loop, layers: Sequence[LayerRow]) -> dict[str, float]:
    """Return the floating-point operations of inference and training.

    The backward pass counts as two forward passes (Evci et al. 2020, appendix H), each layer
    with its density after the epoch: that of its mask, or if it has none, of its weights that are
    not zero (STR, SR-STE, Top-KAST). Dense gradients that a method uses are not counted. Without
    the rows of all epochs, the training's operations are unknown; all are for a model without
    products that are counted.
    """
    recipe, net = run.settings, loop.sparsifier.net
    example = loop.data.inputs.zeros(1, like=next(net.model.parameters()))
    flops = count_flops(net.model, net.weights, example)
    if not flops.total:
        return {}
    densities: dict[int, dict[str, float]] = {}
    for row in layers:
        nonzero = row["nonzero"] / row["weights"]
        density = row["density"] if row["density"] < 1 else nonzero
        densities.setdefault(row["epoch"], {})[row["layer"]] = density
    forward = [flops.at(epoch) for epoch in densities.values()]
    costs = {"dense_flops": flops.total, "flops": forward[-1]}
    if len(forward) < loop.epochs:
        return costs
    images = loop.steps * recipe.batch_size
    return {
        **costs,
        "training_flops": 3 * images * sum(forward),
        "dense_epochs": sum(forward) / flops.total,
    }


def _kernel_speed(run: Run, loop: Loop) -> dict[str, KernelSpeed]:
    """Return the entry of that name of result.json, on the first rank only."""
    batch = max(1, run.settings.batch_size // loop.ranks.world)
    net, inputs = loop.sparsifier.net, loop.data.inputs
    found = kernel_speed(net, inputs, batch) if loop.ranks.is_first else None
    return {} if found is None else {"kernel_speed": found}


def mask_hash(masks: dict[str, Tensor]) -> str:
    """Return a hash of masks, to compare ranks, runs and machines."""
    digest = hashlib.sha256()
    for name, mask in sorted(masks.items()):
        digest.update(name.encode() + mask.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
