"""The methods by name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypeVar

from baselines.errors import UserError, unknown
from baselines.method import Method, Options, Plan

MethodClass = type[Method[Options]]
M = TypeVar("M", bound=MethodClass)

_BUILT_IN = "baselines.methods"  # imported on first use: its modules import this one
_REGISTERED: dict[str, MethodClass] = {}


def register(cls: M) -> M:
    """Register a method under its name. A class decorator.

    Raises:
        UserError: the class has no usable name, or another class is registered under it.
    """
    _check(cls)
    other = _REGISTERED.get(cls.name, cls)
    if _origin(other) != _origin(cls):  # equal if a notebook or a reload defines it again
        raise UserError(f"{_origin(cls)}: {_origin(other)} has the name {cls.name!r} already.")
    _REGISTERED[cls.name] = cls
    return cls


def methods() -> dict[str, MethodClass]:
    """Return all registered methods by name, in alphabetical order."""
    importlib.import_module(_BUILT_IN)
    return dict(sorted(_REGISTERED.items()))


def find_method(method: str | MethodClass) -> MethodClass:
    """Return a method's class.

    Args:
        method: name of a registered method, `"package.module:Class"`, or the class itself.

    Raises:
        UserError: there is no such method; the message lists the known names.
    """
    if not isinstance(method, str):
        return _check(method)
    if ":" in method:
        return _import(method)
    importlib.import_module(_BUILT_IN)
    if method not in _REGISTERED:
        raise unknown("method", method, _REGISTERED)
    return _REGISTERED[method]


def make_method(
    method: str | MethodClass | Method[Options],
    options: Mapping[str, Any],
    sparsity: float,
    steps: int,
    steps_per_epoch: int | None,
    seed: int | None,
) -> Method[Options]:
    """Return a method with a plan, or the given one, which has its own.

    Args:
        steps_per_epoch: steps / 100 if None.
        seed: 0 if None.

    Raises:
        UserError: as `find_method`; or a value is wrong or differs from the given method's plan.
    """
    if isinstance(method, Method):
        given = {"sparsity": sparsity, "steps": steps, "steps_per_epoch": steps_per_epoch}
        given["seed"] = seed
        for name, value in given.items():
            own = getattr(method.plan, name)
            if value is not None and value != own:
                raise UserError(f"{name} is {own} in the plan of the given method, not {value}.")
        if options:
            raise UserError(f"give {', '.join(options)} to the constructor of the method.")
        return method
    epoch = 1 if steps_per_epoch is None else steps_per_epoch
    if steps_per_epoch is None and isinstance(steps, Integral):  # Plan refuses what is not
        epoch = max(1, round(steps / 100))
    cls = find_method(method)
    if sparsity and not cls.is_sparse:
        raise UserError(f"{cls.name} keeps every weight: sparsity must be 0.")
    plan = Plan(sparsity, steps, epoch, 0 if seed is None else seed)
    return cls(plan, cls.options_class.make(**options))


def _import(path: str) -> MethodClass:
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise UserError(f"method {path!r}: write package.module:Class.")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UserError(f"method {path!r}: {error}.") from error
    if found is None:
        raise UserError(f"method {path!r}: module {module} has no {name}.")
    return _check(found)


def _check(cls: Any) -> MethodClass:
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise UserError(f"{cls!r} is not a subclass of baselines.method.Method.")
    name = getattr(cls, "name", "")
    if not re.fullmatch(r"\w[\w.-]*", name, flags=re.ASCII):
        raise UserError(
            f"{_origin(cls)}: name must consist of letters, digits, '_', '-' and '.', not {name!r}."
        )
    return cls


def _origin(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
