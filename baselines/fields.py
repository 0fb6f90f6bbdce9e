"""Check values against the types that a dataclass declares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from baselines.errors import UserError, unknown


def typed(home: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the fields of a dataclass declare them.

    A whole number becomes a float where the field is one, a list becomes a tuple, and a text that
    is a number becomes a float (YAML reads 1e-2 as a text).

    Args:
        home: a dataclass or an instance of it.
        values: values by field name.

    Raises:
        UserError: there is no such field, or a value has another type or is not a choice.
    """
    known = {field.name for field in fields(home)}
    for key in values.keys() - known:
        raise unknown("field", key, known)
    hints = get_type_hints(home if isinstance(home, type) else type(home))
    return {key: _of_type(key, value, hints[key]) for key, value in values.items()}


def _of_type(key: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise unknown(key, str(value), map(str, get_args(hint)))
        return value
    if get_origin(hint) is tuple:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise UserError(f"{key} must be a list, not {value!r}.")
        return tuple(_of_type(key, item, get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (bool, int, float, str) and type(value) is not hint:
        raise UserError(f"{key} must be of type {hint.__name__}, not {value!r}.")
    return value
