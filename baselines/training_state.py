"""The training that a state belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baselines.errors import UserError
from baselines.method import Method, Options
from baselines.sign_rule import SignRule


def training_of(method: Method[Options], rule: SignRule) -> dict[str, str]:
    """Return what must be equal when a state is loaded."""
    name = None if type(rule) is SignRule else type(rule).__name__
    plan = method.plan
    return {
        "training": f"{method.name} to sparsity {plan.sparsity}",
        "sign_rule": f"sign_in={name}",
        "steps": f"steps={plan.steps}",
        "steps_per_epoch": f"steps_per_epoch={plan.steps_per_epoch}",
    }


def check_training(state: Mapping[str, Any], own: Mapping[str, str]) -> None:
    """Check that a state is of the same training. States of old versions are not checked.

    Raises:
        UserError: it is of another training.
    """
    for key, value in own.items():
        if (saved := state.get(key, value)) != value:
            hint = ": give the number of the whole training" if key == "steps" else ""
            raise UserError(f"the state is of a training with {saved}, not {value}{hint}.")
