"""The comparison of any runs by any fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.frame import find_column
from analysis.names import name_of
from analysis.tables.sheet import Sheet

TIED = "† not distinguishable from the best (Welch's t-test, Holm's correction, 5 %)"


def comparison_sheets(
    numbers: pd.DataFrame, runs: pd.DataFrame, rows: Sequence[str], columns: Sequence[str]
) -> list[Sheet]:
    """Return a matrix of accuracies if there are several columns, and the details of all rows.

    Args:
        numbers: from `analysis.statistics.aggregate`, of the same runs, rows and columns.
    """
    across = [find_column(runs, name) for name in columns]
    down = list(dict.fromkeys(["recipe", *(find_column(runs, name) for name in rows)]))
    down = [name for name in down if name not in across]
    sheets = [_details(numbers, [*down, *(c for c in across if c not in down)])]
    if len(numbers[across].drop_duplicates()) > 1:
        sheets.insert(0, _matrix(numbers, down, across))
    return sheets


def _matrix(table: pd.DataFrame, down: list[str], across: list[str]) -> Sheet:
    across = [name for name in across if table[name].nunique() > 1]
    row_of = table.assign(**{c: _shown(table, c) for c in [*down, *across]})
    row_of["column"] = row_of[across].agg(", ".join, axis=1)
    row_of["text"] = [mean_text(row) for row in table.to_dict("records")]
    index = [*down, "sign_in"]
    cells = row_of.pivot(index=index, columns="column", values="text").fillna("")
    bold = row_of.pivot(index=index, columns="column", values="best").fillna(False).astype(bool)
    names = [_short(name) for name in across]
    columns = [f"{', '.join(names)} = {value}" for value in cells.columns]
    left = cells.index.to_frame(index=False).rename(columns=_short)
    left["sign_in"] = left["sign_in"].map({True: "Sign-In", False: ""})
    left = left.rename(columns={"sign_in": ""})
    cells, bold = (
        frame.set_axis(columns, axis=1).reset_index(drop=True) for frame in (cells, bold)
    )
    plain = pd.DataFrame(False, index=left.index, columns=left.columns)
    return Sheet(
        "Accuracy in percent, mean ± standard deviation over seeds",
        pd.concat([left, cells], axis=1),
        pd.concat([plain, bold], axis=1),
        labels=left.shape[1],
        notes=[TIED] if table["tied"].any() else [],
    )


def _details(table: pd.DataFrame, by: list[str]) -> Sheet:
    records = table.to_dict("records")
    cells = pd.DataFrame({_short(name): _shown(table, name) for name in by})
    cells[""] = table["sign_in"].map({True: "Sign-In", False: ""})
    labels = cells.shape[1]
    cells["accuracy"] = [mean_text(row) for row in records]
    cells["gain"] = [_gain(row) for row in records]
    cells["seeds"] = table["runs"].map(str)
    cells["realised"] = table["realised"].map("{:.4f}".format)
    if table["dense_epochs"].notna().any():
        cells["dense epochs"] = [_cost(row) for row in records]
        cells["training"] = [_ratio(row["training_flops"], None) for row in records]
        cells["inference"] = [_ratio(row["flops"], row["dense_flops"]) for row in records]
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    bold["accuracy"] = table["best"]
    notes = [TIED] * bool(table["tied"].any())
    if table["gain"].notna().any():
        notes.append("gain: Sign-In minus plain runs of the same seeds, with 95 % interval")
    if "dense epochs" in cells:
        notes.append(
            "dense epochs: with the same number of operations, of the epochs trained; training: "
            "floating-point operations in total; inference: of one image (fraction of dense)"
        )
    return Sheet("Accuracy in percent, gain of Sign-In and cost", cells, bold, labels, notes)


def mean_text(row: dict[Any, Any]) -> str:
    """Return accuracy ± standard deviation, marked if it is tied with the best."""
    spread = "" if pd.isna(row["std"]) else f" ± {row['std']:.2f}"
    return f"{row['accuracy']:.2f}{spread}{'†' if row['tied'] else ''}"


def _gain(row: dict[Any, Any]) -> str:
    if pd.isna(row["gain"]):
        return ""
    if pd.isna(row["gain_low"]):
        return f"{row['gain']:+.2f}"
    return f"{row['gain']:+.2f} [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]"


def _cost(row: dict[Any, Any]) -> str:
    if pd.isna(row["dense_epochs"]):
        return ""
    return f"{row['dense_epochs']:.1f} of {row['epochs']:.0f}"


def _ratio(value: float, of: float | None) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.2g}" if of is None else f"{value:.2g} ({value / of:.0%})"


def _shown(table: pd.DataFrame, field: str) -> pd.Series[str]:
    return table[field].map(name_of if field == "label" else _text)


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(field: str) -> str:
    return {"label": "method"}.get(field, field.rpartition(".")[2])
