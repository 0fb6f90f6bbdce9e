"""Means over seeds, tests of the difference from the best, and gains of Sign-In."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.alike import SIGN_IN, differing_fields, without_unused
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
    done = without_unused(finished_runs(runs))
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
        UserError: they differ in other fields, which are named with a choice of values.
    """
    for recipe, fields in differing_fields(runs, by).items():
        own = runs[runs["recipe"] == recipe]
        most = own[list(fields)].value_counts(dropna=False).index[0]  # a combination that exists
        names = ["method" if f == "label" else f.rpartition(".")[2] for f in fields]
        parts = [
            f"{name} ({', '.join(values[:4])})"
            for name, values in zip(names, fields.values(), strict=True)
        ]
        chosen = [f'"{name}={value}"' for name, value in zip(names, most, strict=True)]
        raise UserError(
            f"runs of {recipe} differ in {' and '.join(parts)}: choose with "
            f"--where {' '.join(chosen)}, or see all with signbench table compare."
        )


def mark_best(table: pd.DataFrame, samples: pd.Series, within: list[str]) -> pd.DataFrame:
    """Return the columns best and tied, as `aggregate` describes them.

    Args:
        table: has the column accuracy.
        samples: for each row of the table, the accuracies of all seeds.
        within: levels of the index that define the groups in which the best is marked.
    """
    accuracy, values = table["accuracy"].to_numpy(), list(samples)
    marks = pd.DataFrame(False, index=table.index, columns=["best", "tied"])
    for indices in table.groupby(level=within, sort=False).indices.values():  # keys can be NaN
        positions = list(map(int, indices))
        best = max(positions, key=lambda i: accuracy[i])
        marks.iloc[best, 0] = True
        others = [i for i in positions if i != best]
        p_values = [welch(values[best], values[i]) for i in others]
        for i, p in zip(others, holm(p_values), strict=True):
            marks.iloc[i, 1] = p >= LEVEL  # False for NaN
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
    settings = [field for field in by if field.startswith(SIGN_IN)]
    keys = [field for field in by if field != "sign_in" and field not in settings]
    with_sign_in = done["sign_in"].eq(True)
    columns = [*keys, *settings, "seed", "result.accuracy"]
    pairs = done[with_sign_in][columns].merge(
        done[~with_sign_in][columns], on=[*keys, "seed"], suffixes=("", " plain")
    )
    for field in settings:  # a plain run of a method that trains factors has settings, too
        plain = pairs[f"{field} plain"]
        pairs = pairs[plain.isna() | (plain == pairs[field])]
    if not len(pairs):
        empty = pd.DataFrame(columns=[*by, "gain", "gain_low", "gain_high", "gain_std"])
        return empty.astype(done[by].dtypes)
    pairs["difference"] = 100 * (pairs["result.accuracy"] - pairs["result.accuracy plain"])
    groups = pairs.groupby([*keys, *settings], dropna=False)["difference"]
    found = groups.apply(lambda d: pd.Series(interval(d.to_numpy())))
    return found.unstack().reset_index().assign(sign_in=True)


def interval(values: np.ndarray) -> dict[str, float]:
    """Return mean, sample deviation and Student's 95 % interval; NaN for a single value."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    std = float(np.std(values, ddof=1)) if n > 1 else float("nan")
    half = float(t.ppf(1 - LEVEL / 2, n - 1)) * std / np.sqrt(n) if n > 1 else float("nan")
    return {"gain": mean, "gain_low": mean - half, "gain_high": mean + half, "gain_std": std}
