"""The packages of this project, in one place.

Their names are common, so the command line refuses to run with another project's.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGES = ("analysis", "baselines", "launch", "signin")


def root() -> Path:
    """Return the folder that the packages are in."""
    return Path(__file__).resolve().parents[1]


def foreign_package() -> str:
    """Return what is wrong if a package would be imported from elsewhere, else an empty string."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent.parent != root():
            return (
                f"package {name!r} comes from {origin}, not from {root()}; "
                "install signbench in a virtual environment of its own."
            )
    return ""
