"""The fields in which the runs of a recipe differ, so that runs that differ are not averaged."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.frame import ended_runs, find_column

SIGN_IN, HAM = "settings.sign_in.", "settings.ham."  # begin the columns of a sign rule's settings
_NETWORK = ("sparsity", "settings.model", "settings.data", "settings.image_size")


def differing_fields(runs: pd.DataFrame, by: Sequence[str] = ()) -> dict[str, dict[str, list[str]]]:
    """Return by recipe the columns in which its runs differ, each with its values as texts.

    Seeds, kept snapshots, and settings of sign rules that a run does not use are not compared.

    Args:
        by: columns that are left out.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for recipe, group in runs.groupby("recipe"):
        for column in compared_columns(runs):
            values = sorted(map(str, group[column][uses(group, column)].dropna().unique()))
            if len(values) > 1 and column not in by:
                found.setdefault(str(recipe), {})[column] = values
    return found


def uses(runs: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Return which runs a column has an effect on: all, unless it is a setting of a sign rule.

    A run without the rule has the same folder for all of its settings. So runs without Sign-In that
    are alike in all else but have different folders are of a method that always trains factors.
    """
    if column.startswith(HAM):
        return runs["ham"].eq(True)
    if not column.startswith(SIGN_IN):
        return pd.Series(True, runs.index)
    others = [name for name in compared_columns(runs) if not name.startswith(SIGN_IN)]
    with_sign_in = runs["sign_in"].eq(True)
    repeated = runs[~with_sign_in].duplicated([*others, "seed"], keep=False)
    return with_sign_in | repeated.reindex(runs.index, fill_value=False)


def without_unused(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with missing values for settings that have no effect on them."""
    settings = [name for name in map(str, runs.columns) if name.startswith((SIGN_IN, HAM))]
    return runs.assign(**{name: runs[name].where(uses(runs, name)) for name in settings})


def comparison_fields(
    runs: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], chosen: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return rows and columns with every other field in which the runs of a recipe differ.

    Fields that were `chosen` for each row may differ.

    What defines the task (sparsity, model, data) becomes a column, so that the best is marked for
    each; all else becomes a row.
    """
    ended = ended_runs(runs)
    by = [find_column(ended, name) for name in (*rows, *columns)]
    differing = differing_fields(ended, [*by, "sign_in", *chosen])
    more = list(dict.fromkeys(column for fields in differing.values() for column in fields))
    return (
        [*rows, *(column for column in more if column not in _NETWORK)],
        [*columns, *(column for column in more if column in _NETWORK)],
    )


def compared_columns(runs: pd.DataFrame) -> list[str]:
    """Return the columns in which runs that are averaged must be alike."""
    always = ("label", "sparsity", "sign_in", "ham", "exclude")
    return [c for c in runs.columns if c in always or c.startswith("settings.")]
