"""Whether an optimizer decouples weight decay: subtracts it from the weights, as AdamW does."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from baselines.engine.entrywise import probe_of
from baselines.engine.random_state import kept_random_state

_KNOWN = {"AdamW", "Adafactor", "Lion", "Muon", "LAMB", "Lamb"}  # by class name


def decouples_decay(optimizer: Optimizer) -> bool:
    """Return whether weight decay is subtracted from the weights, not added to the gradient.

    A copy of an unknown optimizer takes one step on a small matrix with and without decay: a decay
    that is added to the gradient changes the moments. The optimizer is not changed.
    """
    if _KNOWN & {base.__name__ for base in type(optimizer).__mro__}:
        return True
    group = next((group for group in optimizer.param_groups if group["params"]), {})
    if "weight_decay" not in group:
        return False
    try:
        with kept_random_state(group["params"][0].device):
            without, decayed = (_moments(optimizer, group, decay) for decay in (0.0, 0.5))
    except Exception:  # whatever the optimizer raises for such a matrix
        return False
    return bool(without) and all(map(torch.equal, without, decayed))


def warn_of_added_decay(name: str, optimizer: Optimizer) -> None:
    """Warn of a decay that is added to the gradients, if the optimizer decouples its own."""
    if decouples_decay(optimizer):
        warnings.warn(
            f"{name}: its decay is added to the gradients, not subtracted from the weights as "
            f"that of {type(optimizer).__name__}: where the gradients of the loss are small, "
            "weights decay fast, and λ hardly matters. SGD has no such effect.",
            stacklevel=4,
        )


def _moments(optimizer: Optimizer, group: dict[str, Any], decay: float) -> list[Tensor]:
    """Return the optimizer's state of a matrix after one step, except single numbers."""
    parameter = nn.Parameter(torch.ones(4, 4, device=group["params"][0].device))
    own = {**group, "lr": 0.01, "weight_decay": decay, "params": [parameter]}
    probe = probe_of(optimizer, own)
    parameter.grad = torch.full_like(parameter, 2.0)
    probe.step()
    state = probe.state[parameter].values()
    return [x for x in state if isinstance(x, Tensor) and x.numel() > 1]
