"""Modules that add methods, models, recipes or data sets: the suite's own, and a user's.

Importing this module registers the methods of `signin`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable

import signin.fixed  # noqa: F401
from baselines.errors import UserError


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
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"cannot import {name}: {reason}") from error
