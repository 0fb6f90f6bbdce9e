"""The comparison of any runs by any fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.decay import decay_notes
from analysis.frame import find_column, finished_runs
from analysis.marks import LEAST_SEEDS
from analysis.names import listed_rules, name_of
from analysis.selection import Choice
from analysis.tables.sheet import Sheet

TIED = "† not distinguishable from the best (t-test, 5 %, paired by seed, variance of similar rows)"
FAILED = "* some seeds failed and are not included in the mean"
FEW_SEEDS = "no † for rows of fewer than three seeds; none at all if the best row has fewer"


def comparison_sheets(
    numbers: pd.DataFrame, choice: Choice, rows: Sequence[str], columns: Sequence[str]
) -> list[Sheet]:
    """Return a matrix of accuracies if there are several columns, and the details of all rows.

    Args:
        numbers: from `analysis.statistics.aggregate`, of the same runs, rows and columns.
        choice: the runs, and what was chosen for each row.
    """
    runs = choice.runs
    across = [find_column(runs, name) for name in columns]
    down = list(dict.fromkeys(["recipe", *(find_column(runs, name) for name in rows)]))
    down = [name for name in down if name not in across]
    by = [*down, *(c for c in across if c not in (*down, "rule"))]
    details = _details(numbers, by, choice.columns)
    more = [*choice.notes, *decay_notes(finished_runs(runs))]
    sheets = [replace(details, notes=[*details.notes, *more])]
    if len(numbers[across].drop_duplicates()) > 1:
        sheets.insert(0, _matrix(numbers, down, across))
    return sheets


def _matrix(table: pd.DataFrame, down: list[str], across: list[str]) -> Sheet:
    across = [name for name in across if table[name].nunique(dropna=False) > 1]
    row_of = table.assign(**{c: shown(table, c) for c in [*down, *across]})
    row_of["column"] = row_of[across].replace("", "none").agg(", ".join, axis=1)
    row_of["text"] = [mean_text(row) for row in table.to_dict("records")]
    index = down if "rule" in across else [*down, "rule"]
    cells = row_of.pivot(index=index, columns="column", values="text").fillna("")
    bold = row_of.pivot(index=index, columns="column", values="best").eq(True)
    names = [shortened(name) for name in across]
    columns = [f"{', '.join(names)} = {value}" for value in cells.columns]
    rows = pd.MultiIndex.from_frame(row_of[index].drop_duplicates())
    cells, bold = cells.reindex(rows), bold.reindex(rows)
    left = cells.index.to_frame(index=False).rename(columns=shortened)
    left = left.rename(columns={"rule": ""})
    cells, bold = (
        frame.set_axis(columns, axis=1).reset_index(drop=True) for frame in (cells, bold)
    )
    plain = pd.DataFrame(False, index=left.index, columns=left.columns)
    return Sheet(
        "Accuracy in percent, mean ± standard deviation over seeds",
        pd.concat([left, cells], axis=1),
        pd.concat([plain, bold], axis=1),
        labels=left.shape[1],
        notes=mark_notes(table),
    )


def _details(table: pd.DataFrame, by: list[str], chosen: Sequence[str]) -> Sheet:
    records = table.to_dict("records")
    cells = pd.DataFrame({shortened(name): shown(table, name) for name in by})
    cells[""] = table["rule"]
    labels = cells.shape[1]
    for name in chosen:
        cells[f"{shortened(name)} (chosen)"] = shown(table, name)
    if "validation" in table and table["validation"].notna().any():
        found = ["" if pd.isna(v) else f"{v:.2f}" for v in table["validation"]]
        cells["validation accuracy"] = found
    cells["accuracy"] = [mean_text(row) for row in records]
    cells["gain"] = [gain_text(row) for row in records]
    cells["seeds"] = table["runs"].map(str)
    cells["realised"] = ["" if pd.isna(s) else f"{s:.4f}" for s in table["realised"]]
    if table["dense_epochs"].notna().any():
        cells["dense epochs"] = [cost_text(row) for row in records]
        cells["training"] = [ratio_text(row["training_flops"], None) for row in records]
        cells["inference"] = [ratio_text(row["flops"], row["dense_flops"]) for row in records]
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    bold["accuracy"] = table["best"]
    notes = mark_notes(table) + gain_notes(table)
    if "dense epochs" in cells:
        notes.append(
            "dense epochs: with the same number of operations, of the epochs trained; training: "
            "floating-point operations in total; inference: of one image (fraction of dense)"
        )
    at = f", at the chosen {', '.join(map(shortened, chosen))}" if chosen else ""
    gain = f", gain of {listed_rules(table['rule'])}" if table["gain"].notna().any() else ""
    title = f"Accuracy in percent{gain} and cost{at}"
    return Sheet(title, cells, bold, labels, notes)


def mean_text(row: dict[Any, Any]) -> str:
    """Return accuracy ± standard deviation and marks, which `mark_notes` explains."""
    if not row["runs"]:
        return "failed" if row["failed"] else ""
    spread = "" if pd.isna(row["std"]) else f" ± {row['std']:.2f}"
    marks = "†" * row["tied"] + "‡" * row["misses"] + "*" * bool(row["failed"])
    return f"{row['accuracy']:.2f}{spread}{marks}"


def mark_notes(table: pd.DataFrame) -> list[str]:
    """Return a line for each kind of mark in a table, and one for rows that cannot have †."""
    notes = [TIED] * bool(table["tied"].any())
    few = table["runs"].between(1, LEAST_SEEDS - 1).any() and len(table) > 1
    notes += [FEW_SEEDS] * bool(few)
    if table["misses"].any():
        found = (f"{s:.4f}" for s in table["realised"][table["misses"]])
        realised = ", ".join(dict.fromkeys(found))
        notes.append(f"‡ does not compete: its sparsity is not the requested one, but {realised}")
    return notes + [FAILED] * bool((table["failed"] > 0).any())


def gain_notes(table: pd.DataFrame) -> list[str]:
    """Return a line that defines the gain, if a table has gains."""
    rules = listed_rules(table["rule"])
    told = f"gain: {rules} minus plain runs of the same seeds, with 95 % interval"
    without = table["gain_low"].isna() & table["gain"].notna()
    if without.any():
        told += "; a gain without one is of fewer than three seeds, or the same for all of them"
    return [told] * bool(table["gain"].notna().any())


def gain_text(row: dict[Any, Any]) -> str:
    """Return the gain and its interval."""
    if pd.isna(row["gain"]):
        return ""
    if pd.isna(row["gain_low"]):
        return signed(row["gain"])
    ends = row["gain_low"], row["gain_high"]
    digits = 2 if ends[1] - ends[0] > 0.02 else 4  # never [-0.50, -0.50]
    low, high = (signed(end, digits) for end in ends)
    return f"{signed(row['gain'])} [{low}, {high}]"


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign; what rounds to zero is "+0.00"."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def cost_text(row: dict[Any, Any]) -> str:
    """Return the dense epochs of the same cost, and the epochs trained."""
    if pd.isna(row["dense_epochs"]):
        return ""
    return f"{row['dense_epochs']:.1f} of {row['epochs']:.0f}"


def ratio_text(value: float, of: float | None) -> str:
    """Return a number, and its fraction of another one."""
    if pd.isna(value):
        return ""
    return f"{value:.2g}" if of is None else f"{value:.2g} ({value / of:.0%})"


def shown(table: pd.DataFrame, field: str) -> pd.Series[str]:
    """Return a column as texts."""
    return table[field].map(name_of if field == "label" else _text)


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def shortened(field: str) -> str:
    """Return a field's name for the head of a column."""
    return {"label": "method"}.get(field, field.rpartition(".")[2])
