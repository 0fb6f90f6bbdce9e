"""Closures given to `optimizer.step(closure)`: evaluated once, before the step's hooks."""

from __future__ import annotations

from typing import Any

import torch

from baselines.errors import UserError


class Evaluated:
    """A closure that has been called: returns its value, once."""

    def __init__(self, value: Any) -> None:
        self.value, self.calls = value, 0

    def __call__(self) -> Any:
        self.calls += 1
        if self.calls > 1:
            raise UserError("the optimizer calls its closure several times per step: use another.")
        return self.value


def evaluate_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a closure among the arguments of `step`, and put its value in its place.

    Args:
        args: those of a step pre-hook; the first one is the optimizer.

    Returns:
        New (args, kwargs), as a step pre-hook may return them; None if there is no closure.
    """
    if not has_closure(args, kwargs):
        return None
    places = [i for i, value in enumerate(args) if i > 0 and _is_closure(value)]
    names = [name for name, value in kwargs.items() if _is_closure(value)]
    positional, named = list(args), dict(kwargs)
    with torch.enable_grad():
        for i in places:
            positional[i] = Evaluated(positional[i]())
        for name in names:
            named[name] = Evaluated(named[name]())
    return tuple(positional), named


def has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether the arguments have a closure that has not been evaluated."""
    return any(map(_is_closure, (*args[1:], *kwargs.values())))


def _is_closure(value: Any) -> bool:
    return callable(value) and not isinstance(value, Evaluated)
