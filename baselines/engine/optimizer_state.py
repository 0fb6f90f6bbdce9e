"""Small operations on an optimizer's parameter groups and state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Optimizer, Rprop

from baselines.engine.layer import Layer

Lists = list[list[nn.Parameter]]  # of each parameter group


def show_latents(optimizer: Optimizer, layers: Sequence[Layer], shared_decay: float) -> Lists:
    """Put latents into the parameter groups in place of the weights.

    Latents that a layer shares get a group with the options of the weights' group, except for the
    weight decay. It exists only until `show_weights`, so that schedulers never see it.

    Returns:
        What `show_weights` needs.
    """
    by = {id(layer.weight): layer for layer in layers}
    groups = list(optimizer.param_groups)
    weights = [group["params"] for group in groups]
    for group in groups:
        shown: list[nn.Parameter] = []
        shared: list[nn.Parameter] = []
        for parameter in group["params"]:
            layer = by.get(id(parameter))
            shown.extend((parameter,) if layer is None else layer.own_latents)
            shared.extend(() if layer is None else layer.shared_latents)
        group["params"] = shown
        if shared:
            decay = {"weight_decay": shared_decay} if "weight_decay" in group else {}
            optimizer.param_groups.append({**group, **decay, "params": shared})
    return weights


def show_weights(optimizer: Optimizer, weights: Lists) -> None:
    """Put the weights back that `show_latents` returned."""
    groups = optimizer.param_groups
    del groups[len(weights) :]
    for group, parameters in zip(groups, weights, strict=True):
        group["params"] = parameters


def clear_gradients(latents: Sequence[Tensor]) -> None:
    """Make the optimizer skip the latents in this step."""
    for latent in latents:
        latent.grad = None


def set_gradients(optimizer: Optimizer, latents: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    """Copy gradients into the memory of the step before: allocating it again is slower.

    An optimizer that is not torch's gets new memory: it may keep the last gradient without a copy.
    """
    is_kept = type(optimizer).__module__.startswith("torch.optim.")
    kept: list[Tensor] = []
    for latent in latents:
        if latent.grad is None or not is_kept:
            latent.grad = torch.empty_like(latent)
        kept.append(latent.grad)
    torch._foreach_copy_(kept, list(grads))


def complete_state(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """Give new parameters the state that a step expects to be there."""
    if isinstance(optimizer, Adagrad):
        for parameter in group["params"]:
            if parameter.grad is not None and not optimizer.state.get(parameter):
                optimizer.state[parameter] = _first_state(optimizer, parameter, group["fused"])
    elif isinstance(optimizer, SGD) and group["fused"] and group["momentum"]:
        _complete_momentum(optimizer, group)


def _first_state(optimizer: Adagrad, parameter: Tensor, fused: bool | None) -> dict[str, Tensor]:
    """Return what Adagrad has of a parameter before its first step; old versions need it."""
    first = cleared_value(optimizer, parameter, "sum")
    step = torch.zeros((), device=parameter.device if fused else "cpu")
    return {"step": step, "sum": torch.full_like(parameter, first)}


def _complete_momentum(optimizer: SGD, group: dict[str, Any]) -> None:
    """Give zero momentum to new parameters in a group where others have momentum already.

    Fused SGD fails on such a group. Zero momentum equals none (without dampening).
    """
    stepped = [p for p in group["params"] if p.grad is not None]
    new = [p for p in stepped if optimizer.state.get(p, {}).get("momentum_buffer") is None]
    if len(new) < len(stepped) and not group["dampening"]:
        for parameter in new:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def moved_state(
    optimizer: Optimizer, state: Mapping[str, Any], latent: Tensor, old: Layer, new: Layer
) -> dict[str, Any]:
    """Return a latent's optimizer state under a new mask: cleared for weights that are new."""

    def move(key: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != latent.shape or latent.ndim == 0:
            return value
        cleared = cleared_value(optimizer, old.weight, key)
        dense = torch.full_like(old.weight, cleared, dtype=value.dtype)
        return new.take(old.put(value, dense))

    return {key: move(key, value) for key, value in state.items()}


def cleared_value(optimizer: Optimizer, weight: Tensor, key: str) -> float:
    """Return the initial value of an entry of the optimizer's state of a weight."""
    if isinstance(optimizer, Rprop) and key == "step_size":  # 0 would stay 0
        groups = optimizer.param_groups
        return next(float(g["lr"]) for g in groups if any(p is weight for p in g["params"]))
    if isinstance(optimizer, Adagrad) and key == "sum":
        return float(optimizer.defaults["initial_accumulator_value"])
    if type(optimizer).__name__ == "RMSpropTF" and key == "square_avg":
        return 1.0
    return 0.0


def fitting_state(state: Mapping[str, Any], latent: Tensor) -> dict[str, Any]:
    """Return the state as it is if its tensors fit the latent, else an empty one.

    Tensors with one entry per weight have the latent's shape; others hold a single number.
    """
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    fits = all(value.shape == latent.shape or value.numel() == 1 for value in tensors)
    return dict(state) if fits else {}
