"""The fields in which the runs of a recipe differ: runs are averaged only if they are alike."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.frame import ended_runs, find_column
from analysis.names import HAM, SIGN_IN, keeps_mask

SETTINGS = {SIGN_IN: "settings.sign_in.", HAM: "settings.ham."}  # begin the columns of settings
CALIBRATED = "options.calibrated"  # constants of STR, which no label has
_RESCALING = "settings.sign_in.rescale_"  # begins those that only Sign-In itself uses
_LATE = "settings.sign_in.rescale_masks_late"  # has no effect where masks do not change
_NETWORK = ("sparsity", "settings.model", "settings.data", "settings.image_size")


def differing_fields(runs: pd.DataFrame, by: Sequence[str] = ()) -> dict[str, dict[str, list[str]]]:
    """Return by recipe the columns in which its runs differ, each with its values as texts.

    Seeds, kept snapshots, and what has no effect (`without_unused`) are not compared.

    Args:
        by: columns that are left out.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for recipe, group in runs.groupby("recipe"):
        own = without_unused(group)
        for column in compared_columns(runs):
            values = sorted(map(str, own[column].dropna().unique()))
            if len(values) > 1 and column not in by:
                found.setdefault(str(recipe), {})[column] = values
    return found


def without_unused(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with missing values for what has no effect, or follows from other fields.

    These are settings of Sign-In and HAM that a run does not use, and calibrated constants where
    all runs that are otherwise alike have the same.
    """
    with_sign_in = runs["rule"] == SIGN_IN
    changing = ~runs["label"].map(keeps_mask).astype(bool)
    factorised = runs.get("factorised", with_sign_in)
    used = {SETTINGS[SIGN_IN]: factorised, SETTINGS[HAM]: runs["rule"] == HAM}
    # these replace what the first prefix gave their columns
    used |= {_RESCALING: with_sign_in, _LATE: with_sign_in & changing}
    runs = runs.assign(
        **{
            name: runs[name].where(where)
            for prefix, where in used.items()
            for name in map(str, runs.columns)
            if name.startswith(prefix)
        }
    )
    if CALIBRATED not in runs:
        return runs
    others = ["recipe", *(name for name in compared_columns(runs) if name != CALIBRATED)]
    constants = runs.groupby(others, dropna=False, sort=False)[CALIBRATED]
    return runs.assign(**{CALIBRATED: runs[CALIBRATED].where(constants.transform("nunique") > 1)})


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
    differing = differing_fields(ended, [*by, "rule", *chosen])
    more = list(dict.fromkeys(column for fields in differing.values() for column in fields))
    return (
        [*rows, *(column for column in more if column not in _NETWORK)],
        [*columns, *(column for column in more if column in _NETWORK)],
    )


def compared_columns(runs: pd.DataFrame) -> list[str]:
    """Return the columns in which runs that are averaged must be alike."""
    always = ("label", "sparsity", "rule", "exclude", CALIBRATED)
    return [c for c in runs.columns if c in always or c.startswith("settings.")]
