"""Fields of dataclasses: types of values, defaults that changed, and differences from defaults."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from baselines.errors import UserError, unknown

KEEP_COMMAS = {"keep_commas": True}  # metadata of a tuple field whose flag's values have commas

T = TypeVar("T")
_hints = cache(get_type_hints)


def changed(default: T, before: T | None) -> T:
    """Declare a field of a dataclass whose default is not what earlier versions did.

    Run names are made of the differences from what the first version did, so that a run with the
    new default has a name of its own, and a run with the old value keeps its name.

    Args:
        before: value of the field that does what earlier versions did by default; None if no value
            does.
    """
    return field(default=default, metadata={"before": before})


def default_of(spec: Field[Any]) -> Any:
    """Return the default of a field; MISSING if it has none."""
    return spec.default if spec.default_factory is MISSING else spec.default_factory()


def first_default_of(spec: Field[Any]) -> Any:
    """Return what the first version did by default (see `changed`)."""
    return spec.metadata.get("before", default_of(spec))


def new_defaults(home: Any) -> dict[str, Any]:
    """Return the defaults of the fields that `changed` declares, by name."""
    return {spec.name: spec.default for spec in fields(home) if "before" in spec.metadata}


def earlier_defaults(home: Any) -> dict[str, Any]:
    """Return the values with which these fields do what earlier versions did, by name."""
    found = {spec.name: spec.metadata.get("before") for spec in fields(home)}
    return {name: before for name, before in found.items() if before is not None}


def differences(
    value: Any,
    prefix: str = "",
    leave_out: tuple[str, ...] = (),
    default: Callable[[Field[Any]], Any] = default_of,
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
        for spec in fields(value)
        if spec.name not in leave_out and getattr(value, spec.name) != default(spec)
    }


def typed(home: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the fields of a dataclass declare them.

    Whole numbers and texts of numbers become floats for a float field (YAML reads 1e-2 as a text),
    numpy's numbers become Python's, and lists tuples.

    Args:
        home: a dataclass or an instance of it.
        values: values by field name.

    Raises:
        UserError: there is no such field, or a value has another type or is not a choice.
    """
    known = {field.name for field in fields(home)}
    for key in values.keys() - known:
        raise unknown("field", key, known)
    hints = _hints(home if isinstance(home, type) else type(home))
    return {key: _of_type(key, value, hints[key]) for key, value in values.items()}


def check_types(instance: Any) -> None:
    """Check that a dataclass's instance has values of the declared types, or defaults.

    Numbers of numpy count as those of Python, and lists as tuples.

    Raises:
        UserError: a value has another type or is not a choice.
    """
    pairs = ((spec, getattr(instance, spec.name)) for spec in fields(instance))
    given = {spec.name: value for spec, value in pairs if value is not spec.default}
    for key, value in typed(instance, given).items():
        if isinstance(given[key], str) and not isinstance(value, str):  # for YAML files only
            raise UserError(f"{key} must be of type {type(value).__name__}, not {given[key]!r}.")


def _of_type(key: str, value: Any, hint: Any) -> Any:
    if isinstance(hint, UnionType):  # of a type and None
        first, *others = (part for part in get_args(hint) if part is not type(None))
        return value if value is None or others else _of_type(key, value, first)
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
    for kind, numbers in ((float, Real), (int, Integral)):
        if hint is kind and isinstance(value, numbers) and not isinstance(value, bool):
            return kind(value)
    if hint in (bool, int, float, str) and type(value) is not hint:
        raise UserError(f"{key} must be of type {hint.__name__}, not {value!r}.")
    return value
