"""Conditions that select runs, as `--where` takes them: `method=rigl,snip`, `epochs>=20`."""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frame import find_column
from analysis.names import name_of, split_outside
from baselines.errors import UserError

FORM = "FIELD=VALUE[,VALUE…], FIELD!=VALUE or FIELD<VALUE (also <=, >, >=)"
STATES = ("finished", "failed", "stopped")  # of runs from `analysis.frame.load_runs`
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([\w.]+)\s*(!=|<=|>=|==|=|<|>)(?!\s*[<>=!])\s*(.*)", re.S)


@dataclass(frozen=True)
class Condition:
    """A condition on one field: one of `=`, `!=` with values, or an order with one number."""

    field: str
    relation: str
    values: tuple[str, ...]

    def holds(self, found: Any) -> bool:
        """Return whether the condition holds for a value of the field."""
        if self.relation in _ORDERS:
            number = _number(found)
            return number is not None and _ORDERS[self.relation](number, float(self.values[0]))
        equal = any(_matches(found, value) for value in self.values)
        return equal if self.relation == "=" else not equal


def select_runs(
    runs: pd.DataFrame, conditions: Sequence[str], states: Sequence[str] = STATES
) -> pd.DataFrame:
    """Return the runs that meet all conditions.

    A value can be a pattern with `*`, `?` and `[…]`; upper and lower case are equal. Several values
    of one field are alternatives, whether they are separated by commas or given as several
    conditions `FIELD=VALUE`. `method` is the method's label with its options, as on the command
    line or as in tables, or the method without options if no run has that label.

    Args:
        runs: from `analysis.frame.load_runs`.
        conditions: such as `method=rigl,snip`, `method!=dense`, `recipe=cifar*`, `epochs>=20`.
        states: all that the runs can have.

    Raises:
        UserError: a condition is not of this form, or names an unknown field or state.
    """
    parsed = parse_conditions(conditions)
    check_states(parsed, states)
    for condition in parsed:
        column = runs[find_column(runs, condition.field)]
        if condition.field == "method":
            condition = _by_label(condition, runs)
        _check_order(condition, column)
        runs = runs[column.map(condition.holds).astype(bool)]
    return runs


def check_states(conditions: Sequence[Condition], states: Sequence[str]) -> None:
    """Raise UserError if a condition asks for states of which there is none."""
    for condition in conditions:
        asks = condition.field == "state" and condition.relation == "="
        if asks and not any(map(condition.holds, states)):
            text = f"--where state={','.join(condition.values)}"
            raise UserError(f"{text}: the state is one of {', '.join(states)} here.")


def _check_order(condition: Condition, column: pd.Series[Any]) -> None:
    """Raise UserError if the values to compare by order are texts."""
    texts = [found for found in column if isinstance(found, str) and _number(found) is None]
    if condition.relation in _ORDERS and texts:
        field, relation = condition.field, condition.relation
        raise UserError(f"--where {field}{relation}: {field} has texts, such as {texts[0]!r}.")


def parse_conditions(texts: Sequence[str]) -> list[Condition]:
    """Return the conditions in texts, those with `=` on the same field as one.

    Raises:
        UserError: a text is not of the form, or an order has a value that is not a number.
    """
    found: dict[tuple[str, str, int], Condition] = {}
    for i, (field, relation, values) in enumerate(_parts(texts)):
        if relation in _ORDERS and (len(values) > 1 or _number(values[0]) is None):
            text = f"{field}{relation}{','.join(values)}"
            raise UserError(f"--where {text}: {relation} takes one number.")
        key = (field, relation, 0 if relation == "=" else i)
        earlier = found[key].values if key in found else ()
        found[key] = Condition(field, relation, (*earlier, *values))
    return list(found.values())


def _parts(texts: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield field, relation and values of each condition."""
    for text in texts:
        parts: list[tuple[str, str, list[str]]] = []
        for piece in split_outside(",", text):
            if match := _CONDITION.fullmatch(piece):
                relation = "=" if match[2] == "==" else match[2]
                parts.append((match[1], relation, [match[3].strip()]))
            elif parts:
                parts[-1][2].append(piece.strip())
            else:
                raise UserError(f"--where takes {FORM}, not {text!r}.")
        yield from parts


def _by_label(condition: Condition, runs: pd.DataFrame) -> Condition:
    """Return a condition on the method with labels as its values."""
    labels: list[str] = []
    texts = [runs["label"], runs["label"].map(name_of), runs["method"], runs["method"].map(name_of)]
    for value in condition.values:
        for text in texts:
            chosen = runs["label"][[_matches(found, value) for found in text]]
            if len(chosen):
                labels += chosen.tolist()
                break
    return replace(condition, values=tuple(dict.fromkeys(labels)))


def _matches(found: Any, value: str) -> bool:
    """Return whether a field's value equals a text, as a number if both are, or has its pattern."""
    number, wanted = _number(found), _number(value)
    if number is not None and wanted is not None:
        return number == wanted
    text = _text(found).lower()
    return text == value.lower() or fnmatch.fnmatchcase(text, value.lower())


def _text(found: Any) -> str:
    if isinstance(found, Path):
        return found.name
    return "" if found is None or found != found else str(found)


def _number(value: Any) -> float | None:
    """Return a number or a text as a number; None if it is not a number, or NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number
