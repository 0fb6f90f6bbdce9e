"""The exception for mistakes of the user, and functions that raise it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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


def require(condition: bool, message: str) -> None:
    """Raise a UserError with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def check_in_unit(**values: float) -> None:
    """Raise a UserError unless all values are in [0, 1]."""
    for name, value in values.items():
        require(0 <= value <= 1, f"{name} must be in [0, 1], not {value}.")


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown name, with the nearest names, and all if they are few."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3)
    hint = f", did you mean {' or '.join(near)}?" if near else "."
    listed = f" Known: {', '.join(names)}." if len(names) <= MOST_LISTED else ""
    return UserError(f"unknown {kind} {name!r}{hint}{listed}")
