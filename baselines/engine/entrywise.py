"""Whether an optimizer treats a matrix as it treats the vector of the matrix's entries.

Only then can it step vectors of active weights. SGD and Adam do; Muon orthogonalises matrices, and
Adafactor keeps one number per row and column.
"""

from __future__ import annotations

import copy
import math
import random
from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from baselines.engine.random_state import kept_random_state

_ENTRYWISE = {
    *(optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.Adagrad),
    *(optim.Adadelta, optim.RMSprop, optim.Rprop, optim.ASGD),
}
_SHAPE = (128, 130)  # some treat small matrices as vectors
_RATE = 0.01  # learning rate of the two steps: that of the group can be zero in a warm-up


def is_entrywise(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Return whether the optimizer steps the entries of a matrix as those of a vector.

    Found by two steps on small tensors; the optimizer is not changed. An optimizer that steps
    neither of the tensors is taken to be entrywise.

    Args:
        group: one of its parameter groups.
    """
    if type(optimizer) in _ENTRYWISE:
        return True
    matrix, vector = (
        _step_twice(optimizer, group, shape) for shape in (_SHAPE, (math.prod(_SHAPE),))
    )
    if matrix is None or vector is None:
        return vector is not None or matrix is None
    return torch.allclose(matrix.flatten(), vector, rtol=1e-4, atol=1e-7)


def steps_numbers(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Return whether the optimizer steps tensors without a dimension, found as `is_entrywise`.

    An optimizer that steps no matrix either is taken to do it.
    """
    if type(optimizer) in _ENTRYWISE or _step_twice(optimizer, group, ()) is not None:
        return True
    return _step_twice(optimizer, group, _SHAPE) is None


def _step_twice(
    optimizer: Optimizer, group: dict[str, Any], shape: tuple[int, ...]
) -> Tensor | None:
    """Return a tensor of the shape after two steps from fixed values; None if a step fails."""
    device = group["params"][0].device
    entries = torch.arange(float(math.prod(shape)), device=device).view(shape)
    parameter = nn.Parameter((entries * 1.7).cos() / 10)
    try:
        with kept_random_state(device):
            rate = {} if group.get("lr") is None else {"lr": _RATE}
            probe = probe_of(optimizer, {**group, **rate, "params": [parameter]})
            for step in range(2):
                parameter.grad = _orthogonal((entries * (2.3 + step)).sin(), parameter.detach())
                probe.step()
    except Exception:  # whatever the optimizer raises for a shape or a device that it does not take
        return None
    return parameter.detach()


def _orthogonal(grad: Tensor, parameter: Tensor) -> Tensor:
    """Return a gradient orthogonal to the parameter: AdamP projects only those."""
    return grad - parameter * ((grad * parameter).sum() / parameter.square().sum())


def probe_of(optimizer: Optimizer, group: dict[str, Any]) -> Optimizer:
    """Return an optimizer of the same class with one group, without state and hooks."""
    probe: Optimizer = object.__new__(type(optimizer))
    vars(probe).update(vars(optimizer))
    for name, value in vars(optimizer).items():
        if isinstance(value, OrderedDict) and name.endswith("_hooks"):
            vars(probe)[name] = OrderedDict()
        elif isinstance(value, random.Random):
            vars(probe)[name] = copy.copy(value)
    vars(probe).pop("step", None)  # a learning rate scheduler's, bound to the optimizer itself
    probe.state, probe.param_groups = defaultdict(dict), [group]
    return probe
