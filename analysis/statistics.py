"""Means over seeds, tests of the difference from the best, and gains of Sign-In."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.frame import find_column, finished_runs
from baselines.errors import UserError

LEVEL = 0.05  # level of significance; the confidence of intervals is one minus it
_MEANS = {
    "realised": "result.sparsity",
    "realised_all": "result.sparsity_all",
    "epochs": "result.epochs",
    "dense_epochs": "result.dense_epochs",
    "training_flops": "result.training_flops",
    "flops": "result.flops",
    "dense_flops": "result.dense_flops",
    "seconds": "result.seconds",
}


def aggregate(
    runs: pd.DataFrame, rows: Sequence[str] = ("method",), columns: Sequence[str] = ("sparsity",)
) -> pd.DataFrame:
    """Return statistics over seeds by recipe and any fields, plain and with Sign-In.

    Args:
        runs: from `analysis.frame.load_runs`.
        rows, columns: names of fields. The best is the best row of a recipe and column.

    Returns:
        One row per combination, with the columns of the fields and

        accuracy, std, runs: mean and sample standard deviation in percent, and number of seeds
        best: whether the mean is the highest of its recipe and column
        tied: whether Welch's t-test at 5 %, after Holm's correction over the recipe and column,
            does not distinguish it from the best; False if one of the two has a single run
        gain, gain_low, gain_high, gain_std: accuracy with Sign-In minus that of the plain runs of
            the same seeds: mean, 95 % interval (Student's t) and sample standard deviation
        realised, realised_all, epochs, dense_epochs, training_flops, flops, dense_flops, seconds:
            means of the results' fields; NaN for fields that the results do not have

    Raises:
        UserError: no run has finished, a field is unknown, or runs differ in a field that is
            neither a row nor a column.
    """
    done = finished_runs(runs)
    row_fields, column_fields = (
        [find_column(done, name) for name in names] for names in (rows, columns)
    )
    by = list(dict.fromkeys(["recipe", *column_fields, *row_fields, "sign_in"]))
    check_alike(done, by)
    done = done.sort_values("folder").drop_duplicates([*by, "seed"])
    table = accuracy_statistics(done, by, within=["recipe", *column_fields])
    groups = done.groupby(by, sort=True, dropna=False)
    for name, field in _MEANS.items():
        table[name] = groups[field].mean() if field in done else np.nan
    table = table.reset_index()
    return table.merge(_gains(done, by), how="left", on=by)


def accuracy_statistics(done: pd.DataFrame, by: list[str], within: list[str]) -> pd.DataFrame:
    """Return accuracy, std, runs, best and tied, as `aggregate` describes them.

    Args:
        done: finished runs.
        by: columns whose combinations are the rows.
        within: those of them that define the groups in which the best is marked.
    """
    accuracy = done.groupby(by, sort=True, dropna=False)["result.accuracy"]
    table = pd.DataFrame(
        {"accuracy": 100 * accuracy.mean(), "std": 100 * accuracy.std(), "runs": accuracy.size()}
    )
    samples = accuracy.apply(lambda found: 100 * found.to_numpy())
    return pd.concat([table, mark_best(table, samples, within)], axis=1)


def check_alike(runs: pd.DataFrame, by: Sequence[str]) -> None:
    """Check that the runs of a recipe differ only in the columns `by` and in their seeds.

    Raises:
        UserError: they differ in another field, which is named.
    """
    always = ("label", "sparsity", "sign_in", "exclude")
    settings = [c for c in runs.columns if c.startswith("settings.")]
    for recipe, group in runs.groupby("recipe"):
        for field in [*always, *settings]:
            if field in by or field not in group:
                continue
            # Sign-In's settings have no effect on runs without it
            own = (
                group[group["sign_in"].eq(True)] if field.startswith("settings.sign_in.") else group
            )
            values = sorted(map(str, own[field].dropna().unique()))
            if len(values) > 1:
                name = "method" if field == "label" else field.rpartition(".")[2]
                raise UserError(
                    f"runs of {recipe} differ in {name} ({', '.join(values[:4])}): choose with "
                    f'--where "{name}={values[0]}", or compare with --rows method,{name}.'
                )


def mark_best(table: pd.DataFrame, samples: pd.Series, within: list[str]) -> pd.DataFrame:
    """Return the columns best and tied, as `aggregate` describes them.

    Args:
        table: has the column accuracy.
        samples: by the table's index, accuracies of all seeds.
        within: levels of the index that define the groups in which the best is marked.
    """
    marks = pd.DataFrame(False, index=table.index, columns=["best", "tied"])
    for _, group in table.groupby(level=within, sort=False):
        best: Any = group["accuracy"].idxmax()
        marks.loc[best, "best"] = True
        others = [key for key in group.index if key != best]
        p_values = [welch(samples.loc[best], samples.loc[key]) for key in others]
        for key, p in zip(others, holm(p_values), strict=True):
            marks.loc[key, "tied"] = p >= LEVEL  # False for NaN
    return marks


def welch(one: np.ndarray, other: np.ndarray) -> float:
    """Return the two-sided p-value of Welch's t-test; NaN if one sample has a single value."""
    from scipy.stats import ttest_ind

    if min(len(one), len(other)) < 2:
        return float("nan")
    if max(np.ptp(one), np.ptp(other)) < 1e-9:  # t would be 0 / 0
        return float(np.isclose(np.mean(one), np.mean(other)))
    with warnings.catch_warnings():  # scipy warns about nearly equal values
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(ttest_ind(one, other, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's method (1979). NaN, not tested, remains NaN."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p == p)
    adjusted, highest = [float("nan")] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = highest
    return adjusted


def _gains(done: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the mean difference of accuracies with and without Sign-In, in percentage points.

    The differences are taken seed by seed: both runs of a seed share initialisation, mask and
    data, so that the variation between seeds cancels.
    """
    plain = [field for field in by if field != "sign_in"]
    empty = pd.DataFrame(columns=[*by, "gain", "gain_low", "gain_high", "gain_std"])
    accuracy = done.set_index([*plain, "seed"])["result.accuracy"]
    with_sign_in = done["sign_in"].eq(True).to_numpy()
    difference = (100 * (accuracy[with_sign_in] - accuracy[~with_sign_in])).dropna()
    if not len(difference):
        return empty.astype(done[by].dtypes)
    found = difference.groupby(level=plain).apply(lambda d: pd.Series(interval(d.to_numpy())))
    return found.unstack().reset_index().assign(sign_in=True)


def interval(values: np.ndarray) -> dict[str, float]:
    """Return mean, sample deviation and Student's 95 % interval; NaN for a single value."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    std = float(np.std(values, ddof=1)) if n > 1 else float("nan")
    half = float(t.ppf(1 - LEVEL / 2, n - 1)) * std / np.sqrt(n) if n > 1 else float("nan")
    return {"gain": mean, "gain_low": mean - half, "gain_high": mean + half, "gain_std": std}
