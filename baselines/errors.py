"""The one exception for mistakes that a user can mend, and the near match in its text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LISTED = 40


class UserError(ValueError):
    """Bad input: one line that says what was wrong and what is allowed."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that nobody knows: the nearest names, and all where they are few."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3)
    hint = f", did you mean {' or '.join(near)}?" if near else "."
    listed = f" Known: {', '.join(names)}." if len(names) <= MOST_LISTED else ""
    return UserError(f"unknown {kind} {name!r}{hint}{listed}")
