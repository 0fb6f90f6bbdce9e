"""Fields as texts: `--set lr=0.1,0.2 model=resnet20` of a grid, and back."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from baselines.errors import UserError, unknown
from baselines.fields import differences, typed
from launch.config.recipe import RULES, Recipe
from launch.config.run import Run
from signin import HAM, SignIn

OPTIONS_KEY = "options"  # of a grid's choices: options for those of its methods that have them
GRID_LISTS = {"seed": "seeds", "method": "methods"}  # fields of which named grids take a list


def parse_assignments(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the alternatives that texts `FIELD=VALUE[,VALUE…]` give, by field.

    The values of seed, method and of fields that are lists stay together, as one alternative.

    Raises:
        UserError: a text is not of this form, or a field is given twice.
    """
    fields: dict[str, list[Any]] = {}
    hints = _hints()
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise UserError(f"--set takes FIELD=VALUE[,VALUE…], not {text!r}.")
        if key in fields:
            raise UserError(f"--set has two values of {key}: separate alternatives by commas.")
        fields[key] = _values(key, value.strip(), hints.get(key))
    return fields


def combinations(alternatives: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the choices of a named grid for each combination of alternatives.

    Seed and method have the names of the grid's lists. What is no field is under `OPTIONS_KEY`.
    """
    for values in itertools.product(*alternatives.values()):
        given = dict(zip(alternatives, values, strict=True))
        options = {key: given.pop(key) for key in alternatives if not is_field(key)}
        choices = {GRID_LISTS.get(key, key): value for key, value in given.items()}
        yield {**choices, OPTIONS_KEY: options} if options else choices


def assignment(key: str, value: Any) -> str:
    """Return a field and its value as `parse_assignments` reads them."""
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    if isinstance(value, (tuple, list)):
        return f"{key}={','.join(map(str, value))}"
    return f"{key}={value}"


def is_field(name: str) -> bool:
    """Return whether a name is a field of runs, recipes or Sign-In."""
    return name in _hints()


def apply_options(runs: Iterable[Run], chosen: Mapping[str, Any]) -> list[Run]:
    """Return the runs with those of the options that their methods have and the grid left open.

    Raises:
        UserError: none of the methods has one of the options, or the grid decides it.
    """
    runs = list(runs)
    known = {spec.name for run in runs for spec in dataclasses.fields(run.options)}
    for key in chosen.keys() - known:
        raise unknown("field", key, known | _hints().keys())
    return [_with_options(run, chosen) for run in runs]


def _with_options(run: Run, chosen: Mapping[str, Any]) -> Run:
    has = {spec.name for spec in dataclasses.fields(run.options)}
    own = {key: value for key, value in chosen.items() if key in has}
    decided = differences(run.options)
    left = {key: value for key, value in own.items() if key not in decided}
    for key, value in typed(run.options, own).items():
        if key in decided and dataclasses.replace(run.options, **{key: value}) != run.options:
            raise UserError(f"the grid decides {key} itself; a YAML file can have one value.")
    if not left:
        return run
    return dataclasses.replace(run, options=type(run.options).make(**decided, **left))


def _values(key: str, text: str, hint: Any) -> list[Any]:
    """Return the alternatives of a field."""
    items = [item.strip() for item in text.split(",")]
    if key in GRID_LISTS or get_origin(hint) is tuple:
        kind = get_args(hint)[0] if get_origin(hint) is tuple else hint
        return [tuple(_value(item, kind) for item in items if item)]
    return [_value(item, hint) for item in items]


def _value(text: str, hint: Any) -> Any:
    """Return a text as YAML reads it; the value of a text field remains a text."""
    import yaml

    if hint is str:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _hints() -> dict[str, Any]:
    """Return the types of all fields of runs, recipes and Sign-In by name."""
    found: dict[str, Any] = {}
    for home in (Recipe, SignIn, HAM, Run):
        names = {spec.name for spec in dataclasses.fields(home)} - {"options", "settings"}
        hints = get_type_hints(home)
        found |= {name: hints[name] for name in names if not (home is Recipe and name in RULES)}
    return found
