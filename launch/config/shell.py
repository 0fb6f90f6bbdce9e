"""Command lines that train given runs again, or the runs of a grid like given ones."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.nested import flatten
from launch.config.assignments import assignment
from launch.config.machine import Machine
from launch.config.recipe import setting_names
from launch.config.recipes import find_recipe, known_recipe, recipe_argument
from launch.config.run import Run


def run_command(run: Run, imports: Sequence[str] = ()) -> str:
    """Return the command line that trains a run again, with modules to import first."""
    return shlex.join(["signbench", "run", *run_flags(run), *_import_flags(imports)])


def run_flags(run: Run, leave_out: Collection[str] = ()) -> list[str]:
    """Return recipe, method, and every field in use that differs from their defaults, as words.

    Where the file of the recipe was not read, all settings are given: its values are not known.

    Args:
        leave_out: names of fields.
    """
    base = run.recipe if known_recipe(run.recipe) else "digits"
    own, usual = (_flags_of(asdict(r)) for r in (run, Run.defaults(base, run.method)))
    chosen = {"recipe": recipe_argument(run.recipe), "method": run.method}
    told = set[str]() if known_recipe(run.recipe) else setting_names(run.settings)
    chosen |= {k: v for k, v in own.items() if k != "recipe" and (v != usual[k] or k in told)}
    unused = {*leave_out}  # and settings that are no part of the name
    unused |= {k for k, rule in run.unused_settings.items() if rule not in run.used_rules}
    return [word for k, v in chosen.items() if k not in unused for word in _flag(k, v)]


def runs_flag(root: Path) -> list[str]:
    """Return the flag for a folder of runs, as words; none for the default."""
    return [] if root == Path("runs") else ["--runs", str(root)]


def machine_flags(machine: Machine) -> list[str]:
    """Return the flags for folders, device and imports that are not the defaults, as words."""
    usual, words = Machine(), runs_flag(machine.runs)
    for name in ("data_dir", "device"):
        if getattr(machine, name) != getattr(usual, name):
            words += _flag(name, getattr(machine, name))
    return words + _import_flags(machine.imports)


def _import_flags(modules: Sequence[str]) -> list[str]:
    return [word for module in modules for word in ("--import", module)]


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]


def grid_command(grid: str, recipe: str, like: Sequence[Run], **flags: Any) -> str:
    """Return the command line of a named grid with the settings of given runs.

    Args:
        like: runs of that recipe and grid, with equal settings.
        flags: further flags; a tuple is joined by commas, and empty ones are left out.
    """
    words = ["signbench", "grid", grid, "--recipe", recipe_argument(recipe)]
    for name, value in flags.items():
        if value:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", ",".join(map(str, values))]
    fields = {}
    for run in like[:1]:
        own, usual = (_flags_of(asdict(s)) for s in (run.settings, find_recipe(recipe)))
        fields = {key: value for key, value in own.items() if value != usual[key]}
        fields |= {"exclude": run.exclude} if run.exclude else {}
    if fields:
        words += ["--set", *(assignment(key, value) for key, value in fields.items())]
    return shlex.join(words)


def _flags_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Return nested fields by their own names. No two share a name, since each is a flag."""
    return {name.rpartition(".")[2]: value for name, value in flatten(fields).items()}
