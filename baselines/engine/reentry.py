"""Reentry: which call of an optimizer's hooks belongs to which step."""

from __future__ import annotations

import sys
from types import FrameType


class Reentry:
    """Tells a step from steps within it, and from a step that an exception has ended.

    The hooks of a subclass whose `step` calls `super().step()` run twice, one pair inside the
    other; those of a step that raises run only before it.
    """

    def __init__(self) -> None:
        self._outer: FrameType | None = None
        self._depth = 0

    def enter(self) -> bool:
        """Called by a step pre-hook. Return whether this is not within another step."""
        if self._outer is not None and _is_running(self._outer):
            self._depth += 1
            return False
        self._outer, self._depth = sys._getframe(2), 0  # the frame that calls the hooks
        return True

    def leave(self) -> bool:
        """Called by a step post-hook. Return whether the step that ends is the outer one."""
        if self._depth:
            self._depth -= 1
            return False
        self._outer = None
        return True


def _is_running(frame: FrameType) -> bool:
    current: FrameType | None = sys._getframe()
    while current is not None:
        if current is frame:
            return True
        current = current.f_back
    return False
