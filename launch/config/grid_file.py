"""Grids from YAML files: the product of lists of values for any fields of a run."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from baselines.errors import UserError, unknown
from baselines.registry import find_method
from launch.config.assignments import GRID_LISTS, OPTIONS_KEY
from launch.config.run import Run
from launch.config.yaml_file import read_mapping

MOST_RUNS = 10_000
LIST_FIELDS = ("exclude", "keep_epochs")  # whose value is itself a list


def read_grid(path: Path, **choices: Any) -> list[Run]:
    """Return the runs of a YAML file: the product of its lists.

        recipe: digits
        method: [random, {name: rigl, drop_fraction: 0.2}]
        sparsity: [0.8, 0.9]
        sign_in: [false, true]
        seed: [0, 1, 2]
        epochs: 5
        leave_out: [{method: rigl, sign_in: true}]
        add: [{method: dense, seed: 0}]

    Keys are fields of runs, recipes, Sign-In and methods. `leave_out` drops the combinations that
    have all of the values of one of its entries (of a list, one value); `add` lists further
    products, in which the file's other values hold unless an entry replaces them.

    Args:
        choices: values from the command line, which replace the file's.

    Raises:
        UserError: no such file, not of this form, or an unknown key or value.
    """
    found = read_mapping(path)
    try:
        return runs_of(found, **choices)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def runs_of(found: dict[str, Any], **choices: Any) -> list[Run]:
    """Return the runs of a mapping such as that of a file.

    Args:
        choices: values that replace those of the mapping.

    Raises:
        UserError: it is not of this form, or has an unknown key or value.
    """
    for one, several in GRID_LISTS.items():
        if several in choices:
            choices[one] = list(choices.pop(several))
    rest = {k: v for k, v in found.items() if k not in ("leave_out", "add")}
    entries = [rest, *({**rest, **entry} for entry in _entries(found, "add"))]
    entries = [{**entry, **choices} for entry in entries]
    number = sum(math.prod(len(alternatives(*f)) for f in entry.items()) for entry in entries)
    check_number(number)
    without = _entries(found, "leave_out")
    combinations = [values for entry in entries for values in _product(entry)]
    known = {key for values in combinations for key in values}
    for key in {key for out in without for key in out} - known:
        raise unknown("key of leave_out", str(key), known)
    dropped = set[int]()
    for out in (values for entry in without for values in _product(entry)):
        matches = _matches(combinations, out)
        if not matches:
            warnings.warn(f"leave_out: no combination has {out}", stacklevel=2)
        dropped |= matches
    kept = [values for i, values in enumerate(combinations) if i not in dropped]
    if not kept:
        raise UserError("the grid has no runs: a list is empty, or leave_out drops all of them.")
    return [run_of(values) for values in kept]


def check_number(runs: int) -> None:
    """Raise UserError if a grid has too many runs."""
    if runs > MOST_RUNS:
        raise UserError(f"a grid has at most {MOST_RUNS:,} runs, not {runs:,}.")


def _matches(combinations: list[dict[str, Any]], wanted: dict[str, Any]) -> set[int]:
    """Return the numbers of the combinations that have all of the wanted values."""
    return {
        i
        for i, values in enumerate(combinations)
        if all(key in values and _same(values[key], value) for key, value in wanted.items())
    }


def _same(one: Any, other: Any) -> bool:
    """Return whether values are equal. YAML reads 1e-3 as a text."""
    try:
        return one == other or float(one) == float(other)
    except (TypeError, ValueError):
        return False


def run_of(values: dict[str, Any]) -> Run:
    """Return the run of one combination of a grid.

    A grid's sparsity does not apply to methods that keep every weight, and its `OPTIONS_KEY` apply
    to methods that have them.
    """
    chosen = dict(values)
    recipe, method = chosen.pop("recipe", "digits"), chosen.pop("method", "dense")
    for key, name in (("recipe", recipe), ("method", method)):
        if not isinstance(name, str):
            raise UserError(f"{key} must be a name, not {name!r}.")
    kind = find_method(method)
    own = {spec.name for spec in dataclasses.fields(kind.options_class)}
    options = chosen.pop(OPTIONS_KEY, {})
    if not isinstance(options, dict):
        raise UserError(f"{OPTIONS_KEY} must be a mapping, not {options!r}.")
    chosen |= {key: value for key, value in options.items() if key in own}
    if not kind.is_sparse:
        chosen["sparsity"] = 0.0
    return Run.make(recipe, method, **chosen)


def _entries(found: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = found.get(key) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{key} must be a list of mappings.")
    return entries


def _product(fields: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield all combinations, with the options of a method as fields of their own."""
    lists = {key: alternatives(key, value) for key, value in fields.items()}
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        method = chosen.get("method", "dense")
        if isinstance(method, dict):
            if "name" not in method:
                raise UserError(f"a method with options needs its name: {method}.")
            chosen |= {"method": method["name"]}
            chosen |= {key: value for key, value in method.items() if key != "name"}
        yield chosen


def alternatives(key: str, value: Any) -> list[Any]:
    """Return the values of a field. For a field that is a list, several are a list of lists."""
    if key in LIST_FIELDS:
        nested = isinstance(value, list) and value and isinstance(value[0], list)
        return value if nested else [value]
    return list(value) if isinstance(value, list | range) else [value]
