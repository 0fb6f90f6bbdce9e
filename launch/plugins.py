"""Modules that add methods, models, recipes or data sets: the suite's own, and a user's.

Importing this module registers the methods of `signin`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import signin.fixed  # noqa: F401
from baselines.errors import UserError, describe


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules by name, installed ones or files in the current folder.

    Also makes the current folder importable, for methods that are named as package.module:Class.

    Raises:
        UserError: a module does not exist or its import fails.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it hides no installed package
    for name in modules:
        if name.endswith(".py"):
            raise UserError(f"cannot import {name}: give the module's name, without .py.")
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the module raises
            raise UserError(f"cannot import {name}: {describe(error)}") from error


def import_attribute(path: str, kind: str) -> Any:
    """Return what `package.module:name` names.

    Args:
        kind: what it is, for messages.

    Raises:
        UserError: the module cannot be imported, or has no such attribute.
    """
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise UserError(f"{kind} {path!r}: write package.module:name.")
    import_plugins([module])
    found = getattr(sys.modules[module], name, None)
    if found is None:
        raise UserError(f"{kind} {path!r}: module {module} has no {name}.")
    return found


def call_with_known(
    function: Callable[..., Any],
    known: Mapping[str, Any],
    name: str,
    fallback: Sequence[str] = (),
    reserved: Sequence[str] = (),
    hint: str = "",
) -> Any:
    """Call a function with those known values that it has parameters for.

    Args:
        known: values by the names of parameters.
        name: of the function, for messages.
        fallback: names of the values for a function with as many parameters of other names.
        reserved: names that a parameter of such a function does not have.
        hint: ends the message if a parameter is not known.

    Raises:
        UserError: it is no function, or needs a parameter that is not known.
    """
    if not callable(function):
        raise UserError(f"{name} is a {type(function).__name__}, not a function or class.")
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):  # of C functions
        return function()
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    named = [p for p in parameters if p.kind in kinds]
    missing = [p.name for p in named if p.default is Parameter.empty and p.name not in known]
    if not missing:
        return function(**{p.name: known[p.name] for p in named if p.name in known})
    if len(named) == len(fallback) and known.keys() >= {*fallback} and not {*missing} & {*reserved}:
        return function(*(known[key] for key in fallback))
    raise UserError(
        f"{name} needs {', '.join(missing)}; its parameters can be {', '.join(known)}, and others "
        f"with defaults.{hint}"
    )
