"""The prunable weights of a model: which they are, and which are refused."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedParameter

from baselines.errors import UserError

_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DDP, DataParallel and torch.compile wrappers."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            inner = model.module
        else:  # torch.compile's wrapper, found by its attribute: importing its class takes a second
            inner = getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def all_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return all Conv, Linear and attention weights by parameter name, shared ones once."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, module, attribute in _slots(model):
        weight = getattr(module, attribute)
        if weight is not None:
            found.setdefault(id(weight), (name, weight))
    return dict(found.values())


def prunable_weights(model: nn.Module, exclude: Iterable[str] = ()) -> dict[str, nn.Parameter]:
    """Return the weights of `all_weights` that are trained and not excluded.

    Args:
        exclude: glob patterns of parameter names, with or without the suffix ".weight".

    Raises:
        UserError: no weight is left, a pattern matches nothing, or a weight cannot be pruned: it
            is shared with a module of another type, computed by a parametrization, a tensor
            subclass (sharded, say), not initialised, or not dense in memory.
    """
    for path, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise UserError(f"{path or 'the model'} is sharded by FSDP: use DDP.")
    weights = all_weights(model)
    excluded: set[str] = set()
    for pattern in exclude:
        matches = {name for name in weights if _matches(name, pattern)}
        if not matches:
            raise UserError(f"exclude: {pattern!r} matches none of {', '.join(weights)}.")
        excluded |= matches
    chosen = {
        name: _checked(name, weight)
        for name, weight in weights.items()
        if name not in excluded and (weight.requires_grad or _is_computed(model, name))
    }
    if not chosen:
        raise UserError("nothing to prune: no Conv or Linear weight is trained and not excluded.")
    _check_sharing(model, chosen)
    return chosen


def _slots(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield the places of prunable weights: parameter name, module, attribute."""
    for path, module in model.named_modules():
        attributes: tuple[str, ...] = ()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            attributes = ("weight",)
        elif isinstance(module, nn.MultiheadAttention):
            attributes = _ATTENTION
        for attribute in attributes:
            yield f"{path}.{attribute}" if path else attribute, module, attribute


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.removesuffix(".weight"), pattern)


def _is_computed(model: nn.Module, name: str) -> bool:
    """Whether a weight is computed from others before each forward pass."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    return attribute not in module._parameters and attribute not in module._buffers


def _checked(name: str, weight: Tensor) -> nn.Parameter:
    if isinstance(weight, UninitializedParameter):
        raise UserError(f"{name} is not initialised: run a batch through the model first.")
    if not isinstance(weight, nn.Parameter):
        raise UserError(
            f"{name} is computed by a parametrization (weight_norm, spectral_norm, prune, …): "
            "remove or exclude it."
        )
    if type(weight.data) is not Tensor:
        raise UserError(f"{name} is a {type(weight.data).__name__}: exclude it.")
    if not weight.is_floating_point():
        raise UserError(f"{name} is of type {weight.dtype}, not a floating-point type: exclude it.")
    if torch.empty_like(weight).stride() != weight.stride():
        raise UserError(f"{name} is not dense in memory: make it contiguous.")
    return weight


def _check_sharing(model: nn.Module, chosen: dict[str, nn.Parameter]) -> None:
    slots = {(id(module), attribute) for _, module, attribute in _slots(model)}
    names = {id(weight): name for name, weight in chosen.items()}
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            name = names.get(id(parameter))
            if name is not None and (id(module), attribute) not in slots:
                raise UserError(
                    f"{name} is shared with {path}.{attribute} of a {type(module).__name__}, "
                    f"which would be pruned too: exclude {name!r}."
                )
