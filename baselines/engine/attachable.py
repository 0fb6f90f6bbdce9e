"""Which optimizers can be attached."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import LBFGS, Optimizer

from baselines.engine.layer import Layer
from baselines.errors import UserError

#: Optimizers of other modules that keep parts of the parameters on other ranks, by class name.
SHARDED = {"ZeroRedundancyOptimizer", "DistributedOptimizer", "_NamedOptimizer"}


def attachable(optimizer: Any, layers: Iterable[Layer]) -> Optimizer:
    """Return the optimizer whose step hooks are called at every step.

    That is the optimizer itself, or the one inside a wrapper such as accelerate's.

    Raises:
        UserError: the optimizer cannot be served, or does not hold a prunable weight.
    """
    while not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, Optimizer):
            kind = type(optimizer).__name__
            raise UserError(f"{kind} has no step hooks: give it a torch.optim.Optimizer.")
        optimizer = inner
    names = {cls.__name__ for cls in type(optimizer).__mro__}
    if sharded := names & SHARDED:
        raise UserError(f"{sharded.pop()} keeps parts of the parameters on other ranks: use DDP.")
    if isinstance(optimizer, LBFGS):
        raise UserError("LBFGS calls its closure several times per step: use another optimizer.")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [layer.name for layer in layers if id(layer.weight) not in held]
    if missing:
        raise UserError(f"the optimizer does not hold {', '.join(missing)}.")
    found: Optimizer = optimizer
    return found
