"""The best row of a comparison, and the rows that are not significantly different from it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.variance import LEVEL, ROUNDING, squares, varies, without_noisier, without_outliers

LEAST_SEEDS = 3  # with fewer there is no mark and no interval


def mark_best(values: pd.DataFrame, competes: pd.Series, within: list[str]) -> pd.DataFrame:
    """Return the columns best and tied, as `analysis.statistics.aggregate` describes them.

    Args:
        values: accuracies in percent, one row per row of the table and one column per seed.
        competes: whether a row can be the best or tied with it.
        within: levels of the index that define the groups in which the best is marked.
    """
    marks = np.zeros((len(values), 2), dtype=bool)
    places = values.assign(place=np.arange(len(values)))[competes]
    for _, group in places.groupby(within, sort=False, dropna=False):
        place = group.pop("place").to_numpy()
        means = group.mean(axis=1).to_numpy()
        best = means >= means.max() - ROUNDING  # several, if they are equal
        tied = compare_with(group.to_numpy(), int(best.argmax())) >= LEVEL  # False for NaN
        marks[place, 0], marks[place, 1] = best, tied & ~best
    return pd.DataFrame(marks, values.index, ["best", "tied"])


def compare_with(values: np.ndarray, best: int) -> np.ndarray:
    """Return the p-value, for each row, of the hypothesis that it is as good as the best row.

    That is, that its accuracies have the same distribution as those of the best row. Two-sided
    t-tests: paired if the two rows share enough seeds, else unpaired; not corrected for the number
    of rows. The variance is that of all rows that have the variance of the best: without those of
    outlying variance, and without the worse rows if theirs is larger. A row of larger variance is
    compared as if it had the variance of the best, since a method that fails with some seeds is not
    as good as one that never does.

    Args:
        values: (rows, seeds), NaN where a run is missing.
        best: number of the best row.

    Returns:
        NaN for the best row, and where one of the two has fewer than `LEAST_SEEDS` seeds.
    """
    found = ~np.isnan(values)
    shared = (found & found[best]).sum(axis=1)
    p_values = np.full(len(values), np.nan)
    for paired, seeds in ((True, shared), (False, found.sum(axis=1))):
        rows = (seeds >= LEAST_SEEDS) & (found[best].sum() >= LEAST_SEEDS)
        if rows.sum() < 2:
            continue
        alike = rows_like(values, best, rows, paired)
        for row in np.flatnonzero(rows & np.isnan(p_values)):
            if row != best:
                p_values[row] = _p_value(values, best, int(row), alike, paired)
    return p_values


def rows_like(values: np.ndarray, best: int, rows: np.ndarray, paired: bool) -> np.ndarray:
    """Return the rows that have the variance of the best one, which is always included."""
    is_best = np.arange(len(values)) == best
    # a row without any variation is one of networks that do not work
    alike = without_outliers(values, rows & (varies(values) | is_best), paired)
    return without_noisier(values, alike, paired) if alike[best] else is_best


def _p_value(values: np.ndarray, best: int, row: int, alike: np.ndarray, paired: bool) -> float:
    """Return the p-value of a t-test of a row against the best, with the variance of `alike`."""
    from scipy.stats import t

    if alike.sum() == 1:
        alike = alike | (np.arange(len(values)) == row)
    pooled = squares(values[alike], paired)
    one, other = values[best], values[row]
    if paired:
        both = ~np.isnan(one) & ~np.isnan(other)
        one, other = one[both], other[both]
    n, m = (np.count_nonzero(~np.isnan(x)) for x in (one, other))
    difference = abs(np.nanmean(one) - np.nanmean(other))
    error = np.sqrt(pooled.variance * (1 / n + 1 / m))
    if not error:
        return float(difference < ROUNDING)
    return float(2 * t.sf(difference / error, pooled.freedom))
