"""The flags that describe a run."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from launch.config.run import Run


def command_line(run: Run) -> str:
    """Return the command line that trains a run again."""
    return " ".join(["signbench run", *flags(run)])


def flags(run: Run, leave_out: Collection[str] = ()) -> list[str]:
    """Return recipe, method, and every field that differs from their defaults, as flags.

    Args:
        leave_out: names of fields.
    """
    defaults = Run.defaults(run.recipe, run.method)
    own, usual = (_flatten(asdict(each)) for each in (run, defaults))
    chosen = {"recipe": run.recipe, "method": run.method}
    chosen |= {name: value for name, value in own.items() if value != usual[name]}
    return [_flag(name, value) for name, value in chosen.items() if name not in leave_out]


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    values = value if isinstance(value, tuple) else (value,)
    return f"--{flag} {shlex.join(map(str, values))}"


def _flatten(fields: dict[str, Any]) -> dict[str, Any]:
    """Return nested fields as flat ones. No two share a name, since each is a flag."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= _flatten(value) if isinstance(value, dict) else {name: value}
    return flat
