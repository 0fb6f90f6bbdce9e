"""Fields of the frozen dataclasses that describe runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

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
