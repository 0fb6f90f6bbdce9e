"""The training that a state belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any

from baselines.errors import UserError
from baselines.method import Method, Options
from baselines.sign_rule import SignRule

# Settings that follow the decay of the optimizer, whose state may be loaded later. The rule warns.
_DECAYS = ("frobenius_decay", "sign_in_weight_decay")


def training_of(method: Method[Options], rule: SignRule) -> dict[str, str]:
    """Return what must be equal when a state is loaded."""
    name = None if type(rule) is SignRule else type(rule).__name__
    plan = method.plan
    return {
        "training": f"{method.name} to sparsity {plan.sparsity}",
        "sign_rule": f"sign_in={name}",
        "steps": f"steps={plan.steps}",
        "steps_per_epoch": f"steps_per_epoch={plan.steps_per_epoch}",
        "seed": f"seed={plan.seed}",
        **_settings("option", method.options),
        **_settings("sign_in", rule, _DECAYS),
    }


def check_training(state: Mapping[str, Any], own: Mapping[str, str]) -> None:
    """Check that a state is of the same training. What old versions did not save is not checked.

    Raises:
        UserError: it is of another training.
    """
    for key, value in own.items():
        if (saved := state.get(key, value)) != value:
            hint = ": give the number of the whole training" if key == "steps" else ""
            raise UserError(f"the state is of a training with {saved}, not {value}{hint}.")


def _settings(kind: str, home: Any, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the plain values of a dataclass's fields; nothing of another object."""
    if not is_dataclass(home):
        return {}
    values = {spec.name: getattr(home, spec.name) for spec in fields(home)}
    return {
        f"{kind} {name}": f"{name}={_text(value)}"
        for name, value in values.items()
        if name not in leave_out and (value is None or isinstance(value, (str, Real, tuple, list)))
    }


def _text(value: Any) -> str:
    """Return a value as a text: the same for a list and a tuple, for 1, 1.0 and numpy's 1.0."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, Real) and not isinstance(value, bool):
        return repr(float(value)).removesuffix(".0")
    return repr(value)
