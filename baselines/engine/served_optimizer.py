"""The optimizers that can be attached, and the one inside a wrapper."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from baselines.engine.entrywise import is_entrywise, steps_numbers
from baselines.engine.step_hooks import StepHooks
from baselines.engine.storage import Storage
from baselines.errors import UserError

_SHARDED = "keeps parts of the parameters on other ranks: use DDP with an ordinary optimizer"
_OUTSIDE = "writes weights outside of the step of the optimizer that it wraps: use that one alone"
_REFUSED = {
    "LBFGS": "calls its closure several times per step: use another optimizer",
    "ZeroRedundancyOptimizer": _SHARDED,
    "DistributedOptimizer": _SHARDED,
    "_NamedOptimizer": _SHARDED,
    "DeepSpeedZeroOptimizer": _SHARDED,
    "DeepSpeedZeroOptimizer_Stage3": _SHARDED,
    "PostLocalSGDOptimizer": _OUTSIDE,
    "Lookahead": _OUTSIDE,
}
_ANCHORED = {"MADGRAD", "Prodigy", "DAdaptSGD", "DAdaptAdaGrad"}
_INNER = ("optimizer", "base_optimizer", "optim", "opt")
_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_state_dict_pre_hooks")


def served_optimizer(
    optimizer: Any,
    weights: Mapping[str, nn.Parameter],
    full_size: bool,
    storage: Storage,
) -> Optimizer:
    """Return the optimizer to attach: the given one, or one that it wraps.

    Nothing is changed.

    Args:
        weights: the prunable weights by name.
        full_size: latents have the shapes of the weights.
        storage: makes the latents.

    Raises:
        UserError: it is not supported, or does not hold the weights.
    """
    kind = type(optimizer).__name__
    for base in type(optimizer).__mro__:
        if base.__name__ in _REFUSED:
            raise UserError(f"{kind} {_REFUSED[base.__name__]}.")
    if "8bit" in kind:
        raise UserError(f"{kind} quantizes its state in blocks: use the 32-bit optimizer.")
    if getattr(optimizer, "is_second_order", False):
        raise UserError(f"{kind} needs second derivatives of the latents: use another optimizer.")
    if hasattr(optimizer, "_amp_stash"):
        raise UserError("Apex amp keeps copies of the weights: use torch.amp.")
    inner = _wrapped_by(optimizer)
    if inner is not None:
        if hasattr(optimizer, "first_step"):
            warnings.warn(
                f"{kind} moves the weights by their gradients before it steps: call "
                "mask_gradients() before, so that masked weights stay zero.",
                stacklevel=4,
            )
        return served_optimizer(inner, weights, full_size, storage)
    if not isinstance(optimizer, Optimizer) or any(not hasattr(optimizer, x) for x in _HOOKS):
        raise UserError(f"{kind} has no step hooks: give the torch optimizer that it wraps.")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise UserError(f"{kind} has maximize=True: minimise the negative loss instead.")
    missing = [name for name, weight in weights.items() if id(weight) not in held]
    if missing:
        raise UserError(f"the optimizer does not hold {', '.join(missing)}.")
    if _is_attached(optimizer):
        raise UserError(f"the {kind} is attached already: finalize() its sparsifier first.")
    _check_latents(optimizer, full_size, storage)
    ids = {id(weight) for weight in weights.values()}
    groups = (g for g in optimizer.param_groups if any(id(p) in ids for p in g["params"]))
    _check_shapes(optimizer, groups, full_size, storage)
    return optimizer


def _wrapped_by(optimizer: Any) -> Optimizer | None:
    """Return the optimizer to which another one passes its steps; None if it wraps none."""
    for name in _INNER:
        inner = getattr(optimizer, name, None)
        if not isinstance(inner, Optimizer):
            continue
        if hasattr(optimizer, "param_groups") and _held(inner) != _held(optimizer):
            raise UserError(
                f"{type(optimizer).__name__} wraps an optimizer that holds other parameters than "
                "it does: use an ordinary optimizer."
            )
        return inner
    return None


def _is_attached(optimizer: Optimizer) -> bool:
    hooks = optimizer._optimizer_step_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), StepHooks) for hook in hooks)


def _held(optimizer: Any) -> list[int]:
    return [id(p) for group in optimizer.param_groups for p in group["params"]]


def _check_latents(optimizer: Optimizer, full_size: bool, storage: Storage) -> None:
    """Raise UserError if the optimizer writes or remembers values that latents do not keep."""
    kind = type(optimizer).__name__
    if callable(getattr(optimizer, "eval", None)) and not (full_size and storage.is_identity):
        raise UserError(
            f"{kind}.eval() writes the weights: it needs dense_latents=True, without factors or "
            "thresholds."
        )
    has_factors = len(storage.names) - storage.has_shared > 1
    if has_factors and _ANCHORED & {base.__name__ for base in type(optimizer).__mro__}:
        raise UserError(
            f"{kind} remembers the initial values of the parameters, but factors are set again: "
            "use another optimizer, or train without Sign-In and without factors."
        )


def _check_shapes(
    optimizer: Optimizer, groups: Iterable[dict[str, Any]], full_size: bool, storage: Storage
) -> None:
    kind = type(optimizer).__name__
    for group in groups:
        if not full_size and not is_entrywise(optimizer, group):
            raise UserError(
                f"{kind} treats weights by the shape of their tensor: set dense_latents=True."
            )
        if storage.has_shared and not steps_numbers(optimizer, group):
            raise UserError(
                f"{kind} cannot step thresholds, which are tensors without a dimension: use "
                "another optimizer."
            )
