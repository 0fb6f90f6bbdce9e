"""Modules that register methods when they are imported: signin's, and a user's own."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import signin.fixed  # noqa: F401
from baselines.errors import UserError


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules by name, so that the methods in them register.

    Raises:
        UserError: a module is missing, or cannot import another one.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, ValueError, TypeError) as error:  # the last two: "" and ".name"
            raise UserError(f"cannot import {module!r}: {error}.") from error
