"""Grids by name or file, with the choices of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import analysis.protocol
from analysis.protocol import Protocol, check_protocol
from baselines.errors import UserError, unknown
from launch.config.assignments import OPTIONS, check_options, parse_assignments
from launch.config.dependencies import in_order
from launch.config.grid_file import read_grid
from launch.config.grids import GRIDS
from launch.config.recipe import RULES
from launch.config.run import Run
from launch.config.yaml_file import ENDINGS


def find_grid(
    name: str, assigned: Sequence[str] = (), protocol: Protocol = "suite", **choices: Any
) -> list[Run]:
    """Return the runs of a named grid or of a YAML file, each after those that it needs.

    Args:
        assigned: texts `FIELD=VALUE[,VALUE…]`, see `parse_assignments`; the grid is repeated for
            each combination of their values.
        protocol: "paper" for one-shot SynFlow and balanced densities as in the paper's code.
        choices: recipe, seeds, methods, and values of fields for all its runs.

    Raises:
        UserError: an unknown grid, a file of another form, no seeds, an unknown field, methods for
            a grid whose methods are fixed, or a protocol for a grid that is the same in all.
    """
    runs: list[Run] = []
    for values in parse_assignments(assigned):
        if twice := values.keys() & choices.keys():
            raise UserError(f"{min(twice)} is given twice, once by --set.")
        runs += check_options(_one_grid(name, **choices, **values), values.get(OPTIONS, {}))
    if protocol == "paper":
        runs = _as_in_the_papers_code(name, runs)
    return in_order({run.name: run for run in runs}.values())  # a seed given twice is one run


def _one_grid(name: str, **choices: Any) -> list[Run]:
    if "seeds" in choices and not choices["seeds"]:
        raise UserError("seeds: give at least one.")
    if name.endswith(ENDINGS):
        return read_grid(Path(name), **choices)
    if name not in GRIDS:
        raise unknown("grid", name, [*GRIDS, "FILE.yaml"])
    if "methods" in choices and "methods" not in signature(GRIDS[name]).parameters:
        raise UserError(f"the methods of {name} are fixed; a YAML file can have others.")
    if rules := choices.keys() & set(RULES):
        raise UserError(f"{name} decides {min(rules)} itself; a YAML file can have one value.")
    return GRIDS[name](**choices)


def _as_in_the_papers_code(name: str, runs: list[Run]) -> list[Run]:
    check_protocol("paper", name.removeprefix("table"))
    options = analysis.protocol.OPTIONS
    changes = {method: options.get(method, {}) for method in {run.method for run in runs}}
    return [replace(run, options=replace(run.options, **changes[run.method])) for run in runs]
