"""The prunable weights of a model: which they are, and which are refused."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedParameter

from baselines.engine.kinds import Slot, slots
from baselines.errors import MOST_LISTED, UserError

COVERED = 0.9  # fraction of the parameters below which a warning names what is not pruned
LARGEST = 5  # number of tensors that it names


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
    """Return the weights of all linear maps by parameter name, shared ones once."""
    return {slot.name: slot.weight for slot in _by_weight(slots(model)).values() if slot.is_known}


def prunable_weights(
    model: nn.Module, exclude: Iterable[str] = (), include: Iterable[str] = ()
) -> dict[str, nn.Parameter]:
    """Return the weights of `prunable_slots` by name."""
    return {n: slot.parameter for n, slot in prunable_slots(model, exclude, include).items()}


def prunable_slots(
    model: nn.Module, exclude: Iterable[str] = (), include: Iterable[str] = ()
) -> dict[str, Slot]:
    """Return the trained weights of linear maps and of `include` that are not excluded.

    Warns with the names of the largest tensors that are neither pruned nor excluded if the pruned
    ones are less than 90 % of the trained parameters in tensors of two or more dimensions.

    Args:
        exclude: glob patterns of parameter names, with or without the suffix ".weight".
        include: patterns of further parameters of two or more dimensions to prune.

    Raises:
        UserError: no weight is left, a pattern matches nothing, or a weight cannot be pruned: it
            is shared with a module of another type, computed by a parametrization, a tensor
            subclass (such as a sharded one), not initialised, or not dense in memory.
    """
    for path, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise UserError(f"{path or 'the model'} is sharded by FSDP: use DDP.")
    places = list(slots(model))
    wanted, included = _wanted(places, exclude, include)
    trained = {key: slot for key, slot in wanted.items() if slot.is_trained}
    chosen = {
        key: _check_weight(slot)
        for key, slot in trained.items()
        if slot.is_known or key in included
    }
    if not chosen:
        raise UserError(
            "nothing to prune: no weight of a linear map is trained and not excluded; name other "
            "parameters in include."
        )
    _check_sharing(places, {key: slot for key, slot in chosen.items() if key not in included})
    _warn_of_rest(list(chosen.values()), [trained[key] for key in trained.keys() - chosen.keys()])
    return {slot.name: slot for slot in chosen.values()}


def frozen_weights(
    model: nn.Module, exclude: Iterable[str] = (), include: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Return the weights that `prunable_slots` leaves out only because they are not trained."""
    wanted, included = _wanted(list(slots(model)), exclude, include)
    return {
        slot.name: slot.weight
        for key, slot in wanted.items()
        if (slot.is_known or key in included) and not slot.is_trained
    }


def _wanted(
    places: list[Slot], exclude: Iterable[str], include: Iterable[str]
) -> tuple[dict[object, Slot], set[object]]:
    """Return a place of each weight that is not excluded by its key, and the keys included."""
    excluded = _match_patterns("exclude", exclude, places)
    included = _match_patterns("include", include, places)
    weights = _by_weight(places).items()
    return {key: slot for key, slot in weights if key not in excluded}, included


def _by_weight(places: Iterable[Slot]) -> dict[object, Slot]:
    """Return one place of each weight by its key: the first one in a linear map, if any."""
    found: dict[object, Slot] = {}
    for slot in places:
        held = found.setdefault(slot.key, slot)
        if slot.is_known and not held.is_known:
            del found[slot.key]  # it comes where the linear map comes
            found[slot.key] = slot
    return found


def _match_patterns(option: str, patterns: Iterable[str], places: list[Slot]) -> set[object]:
    """Return the keys of the weights whose names match a pattern."""
    if isinstance(patterns, str):
        raise UserError(f"{option} must be a list of patterns: [{patterns!r}].")
    found: set[object] = set()
    for pattern in patterns:
        matches = {slot.key for slot in places if _matches(slot.name, pattern)}
        if not matches:
            listed = ", ".join([slot.name for slot in places][:MOST_LISTED])
            raise UserError(f"{option}: {pattern!r} matches none of {listed}.")
        found |= matches
    return found


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.removesuffix(".weight"), pattern)


def _check_weight(slot: Slot) -> Slot:
    name, weight = slot.name, slot.weight
    if isinstance(weight, UninitializedParameter):
        raise UserError(f"{name} is not initialised: run a batch through the model first.")
    if slot.is_computed or not isinstance(weight, nn.Parameter):
        raise UserError(
            f"{name} is computed by a parametrization (weight_norm, spectral_norm, prune, …): "
            "remove or exclude it."
        )
    if type(weight.data) is not Tensor:
        raise UserError(f"{name} is a {type(weight.data).__name__}: exclude it.")
    if not weight.is_floating_point():
        raise UserError(f"{name} is of type {weight.dtype}, not a floating-point type: exclude it.")
    if getattr(slot.module, "sparse", False):
        raise UserError(f"{name} has sparse gradients: make its module with sparse=False.")
    if torch.empty_like(weight).stride() != weight.stride():
        raise UserError(f"{name} is not dense in memory: make it contiguous.")
    return slot


def _check_sharing(places: list[Slot], chosen: Mapping[object, Slot]) -> None:
    for slot in places:
        if not slot.is_known and (own := chosen.get(slot.key)):
            raise UserError(
                f"{own.name} is shared with {slot.name} of a {type(slot.module).__name__}, which "
                f"would be pruned too: include or exclude {own.name!r}."
            )


def _warn_of_rest(chosen: list[Slot], rest: list[Slot]) -> None:
    pruned, others = (sum(slot.weight.numel() for slot in part) for part in (chosen, rest))
    if pruned >= COVERED * (pruned + others):
        return
    largest = sorted(rest, key=lambda slot: (-slot.weight.numel(), slot.name))[:LARGEST]
    warnings.warn(
        f"only {pruned / (pruned + others):.1%} of the parameters in trained tensors of two or "
        "more dimensions are prunable; the largest others are "
        f"{', '.join(f'{slot.name} ({slot.weight.numel():,})' for slot in largest)}. "
        "Name them in include or exclude.",
        stacklevel=5,  # the line that makes a SparseModel
    )
