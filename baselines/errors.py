"""The exception for mistakes of the user, and functions that raise it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping

MOST_LISTED = 40


class UserError(ValueError):
    """Invalid input. The message is one line that says what is wrong and what is allowed."""


def one_line(text: object, most: int = 300) -> str:
    """Return a text on one line, without its middle if it has more than `most` characters."""
    line = " ".join(str(text).split())
    if len(line) <= most:
        return line
    head = most * 2 // 3
    return f"{line[:head]} … {line[len(line) - (most - head - 3) :]}"


def describe(error: BaseException) -> str:
    """Return the type and the message of an exception on one line."""
    return one_line(f"{type(error).__name__}: {error}")


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the type if there is no message."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def require(condition: bool, message: str) -> None:
    """Raise a UserError with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def check_positive(**values: float) -> None:
    """Raise a UserError unless all values are positive."""
    _check(lambda x: x > 0, "be positive", values)


def check_not_negative(**values: float) -> None:
    """Raise a UserError if a value is negative."""
    _check(lambda x: x >= 0, "not be negative", values)


def check_finite(**values: float) -> None:
    """Raise a UserError unless all values are finite."""
    _check(lambda x: -math.inf < x < math.inf, "be finite", values)


def check_at_least(least: float, **values: float) -> None:
    """Raise a UserError if a value is smaller than `least`."""
    _check(lambda x: x >= least, f"be at least {least:,}", values)


def check_at_most(most: float, **values: float) -> None:
    """Raise a UserError if a value is larger than `most`."""
    _check(lambda x: x <= most, f"be at most {most:,}", values)


def check_in_unit(**values: float) -> None:
    """Raise a UserError unless all values are in [0, 1]."""
    _check(lambda x: 0 <= x <= 1, "be in [0, 1]", values)


def check_inside_unit(**values: float) -> None:
    """Raise a UserError unless all values are in (0, 1)."""
    _check(lambda x: 0 < x < 1, "be in (0, 1)", values)


def check_fraction(**values: float) -> None:
    """Raise a UserError unless all values are in [0, 1)."""
    _check(lambda x: 0 <= x < 1, "be in [0, 1)", values)


def _check(allowed: Callable[[float], bool], what: str, values: Mapping[str, float]) -> None:
    """Raise a UserError unless all values are allowed, which NaN never is."""
    for name, value in values.items():
        require(allowed(value), f"{name} must {what}, not {value}.")


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown name, with the nearest names, and all if they are few."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3)
    hint = f", did you mean {' or '.join(near)}?" if near else "."
    listed = f" Known: {', '.join(names)}." if len(names) <= MOST_LISTED else ""
    return UserError(f"unknown {kind} {name!r}{hint}{listed}")
