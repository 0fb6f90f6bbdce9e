"""Fields of the frozen dataclasses that describe runs: types, differences and allowed ranges."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from baselines.errors import UserError, unknown

KEEP_COMMAS = {"keep_commas": True}  # metadata of a tuple field whose flag's values have commas


def typed(home: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values converted to the types that a dataclass declares for its fields.

    Whole numbers become floats where the field is a float, and lists become tuples.

    Args:
        home: the dataclass or an instance of it.
        values: by field name.

    Raises:
        UserError: a value of another type, or one that is not among a field's choices.
    """
    hints = get_type_hints(home if isinstance(home, type) else type(home))
    return {key: _convert(key, value, hints[key]) for key, value in values.items()}


def _convert(key: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise unknown(key, str(value), map(str, get_args(hint)))
        return value
    if get_origin(hint) is tuple:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise UserError(f"{key} must be a list, not {value!r}.")
        return tuple(_convert(key, item, get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-2 as a string
        with contextlib.suppress(ValueError):
            return float(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (bool, int, float, str) and type(value) is not hint:
        raise UserError(f"{key} must be of type {hint.__name__}, not {value!r}.")
    return value


def differences(value: Any, prefix: str = "", leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass instance that differ from their defaults.

    A field without a default always differs.

    Args:
        prefix: put before each field's name in the keys.
        leave_out: fields that are not compared.
    """
    return {
        prefix + spec.name: getattr(value, spec.name)
        for spec in dataclasses.fields(value)
        if spec.name not in leave_out and getattr(value, spec.name) != _default(spec)
    }


def _default(spec: dataclasses.Field[Any]) -> Any:
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return spec.default


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


def check_in_unit(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name} must be in [0, 1], not {value}.")
