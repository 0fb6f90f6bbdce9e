"""Fields of the frozen dataclasses that describe runs: differences and allowed ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from baselines.errors import UserError
from baselines.fields import default_of

KEEP_COMMAS = {"keep_commas": True}  # metadata of a tuple field whose flag's values have commas


def differences(
    value: Any,
    prefix: str = "",
    leave_out: tuple[str, ...] = (),
    default: Callable[[dataclasses.Field[Any]], Any] = default_of,
) -> dict[str, Any]:
    """Return the fields of a dataclass instance that differ from their defaults.

    A field without a default always differs.

    Args:
        prefix: put before each field's name in the keys.
        leave_out: fields that are not compared.
        default: function from a field to the value to compare with.
    """
    return {
        prefix + spec.name: getattr(value, spec.name)
        for spec in dataclasses.fields(value)
        if spec.name not in leave_out and getattr(value, spec.name) != default(spec)
    }


def check_sparsity(value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"sparsity must be in [0, 1), not {value}.")


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{name} must be positive, not {value}.")


def check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise UserError(f"{name} must not be negative, not {value}.")


def check_at_most(most: int, **values: float) -> None:
    for name, value in values.items():
        if value > most:
            raise UserError(f"{name} must be at most {most:,}, not {value}.")
