"""The speed of core torch's 2:4 kernels on a network that a run has trained on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from analysis.contents import KernelSpeed
from baselines.engine import device
from baselines.engine.sparse_model import SparseModel
from baselines.errors import one_line
from launch.inputs import Inputs
from launch.sparse_inference.format_choice import DENSE, LayerFormat, choose_formats
from launch.sparse_inference.semi_structured import is_semi_structured

ROUNDS = 10


def kernel_speed(net: SparseModel, inputs: Inputs, batch: int) -> KernelSpeed | None:
    """Measure each linear layer in bfloat16 with the kernels and without, on random inputs.

    Args:
        batch: number of inputs.

    Returns:
        The speed, or why there is none; None on a CPU, or if the weights are not 2:4.
    """
    weights = list(net.weights.values())
    if device.on_cpu(weights[0]) or not is_semi_structured(weights):
        return None
    try:
        model = copy.deepcopy(net.model).bfloat16().eval()
        like = next(model.parameters())
        x = inputs.random(batch, torch.Generator().manual_seed(0), like)
        return _summary(choose_formats(model, x, ROUNDS), batch)
    except Exception as error:  # the run has been trained: its result must not depend on this
        return {"reason": one_line(error)}


def speed_text(found: KernelSpeed) -> str:
    """Return a measurement as a line."""
    if "speed" not in found:
        return f"speed of 2:4 kernels not measured: {found['reason']}"
    count = f"{found['layers']} linear layer{'s' * (found['layers'] > 1)}"
    where = f"in {count} at batch size {found['batch']}"
    return f"2:4 kernels are {found['speed']:.2f} × as fast as dense ones {where}"


def _summary(choices: Sequence[LayerFormat], batch: int) -> KernelSpeed:
    pairs = []  # seconds of the dense layer and of the fastest kernel
    reasons: dict[str, None] = {}
    for choice in choices:
        sparse = [t.seconds for name, t in choice.times.items() if name != DENSE]
        if sparse:
            pairs.append((choice.times[DENSE].seconds, min(sparse)))
        else:
            reasons |= dict.fromkeys([choice.reason] if choice.reason else choice.failed.values())
    found: KernelSpeed = {"reason": one_line("; ".join(reasons))} if reasons else {}
    if not pairs:
        return found
    dense, sparse_sum = (sum(seconds) for seconds in zip(*pairs, strict=True))
    return {
        "layers": len(pairs),
        "faster": sum(choice.is_sparse for choice in choices),
        "batch": batch,
        "dense_seconds": dense,
        "sparse_seconds": sparse_sum,
        "speed": dense / sparse_sum,
        **found,
    }
