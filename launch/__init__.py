"""From the description of a run to a finished run, anywhere.

In Python:

    from launch import Run, grid, results, run
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launch.api import Run, grid, results, run

__all__ = ["Run", "grid", "results", "run"]


def __getattr__(name: str) -> Any:
    """Import the interface when it is used, so that `signbench --help` answers at once."""
    if name in __all__:
        return getattr(importlib.import_module("launch.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
