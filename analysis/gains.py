"""What Sign-In and HAM gain: accuracies minus those of the plain runs with the same seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.alike import CALIBRATED, SETTINGS
from analysis.marks import LEAST_SEEDS
from analysis.names import PLAIN
from analysis.variance import LEVEL, is_homogeneous, squares, varies, without_outliers

# fields that differ between the two runs of a pair
_OF_ONE = ("rule", "sign_in", "ham", "factorised", CALIBRATED)


def paired_gains(done: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the differences of accuracy of pairs of a plain run and one with Sign-In or HAM.

    Both runs of a pair have the same seed and so share initialisation, mask and data: the variation
    between seeds cancels.

    Args:
        done: finished runs, one per combination of `by` and seed, without the settings
            that have no effect (`analysis.alike.without_unused`).
        by: columns whose combinations are the rows of a table, `rule` among them.

    Returns:
        One row per combination with a rule and one column per seed, in percentage points; NaN
        where one of the two runs is missing.
    """
    settings = [field for field in by if field.startswith(tuple(SETTINGS.values()))]
    keys = [field for field in by if field not in (*_OF_ONE, *settings)]
    is_plain = done["rule"] == PLAIN
    columns = [*by, "seed", "result.accuracy"]
    pairs = done[~is_plain][columns].merge(
        done[is_plain][columns], on=[*keys, "seed"], suffixes=("", " plain")
    )
    for field in settings:  # a plain run of a method that trains factors has settings, too
        plain = pairs[f"{field} plain"]
        pairs = pairs[plain.isna() | (plain == pairs[field])]
    pairs["gain"] = 100 * (pairs["result.accuracy"] - pairs["result.accuracy plain"])
    return pairs.groupby([*by, "seed"], dropna=False)["gain"].mean().unstack("seed")


def summarise_gains(gains: pd.DataFrame, within: str = "recipe") -> pd.DataFrame:
    """Return the columns gain, gain_low, gain_high and gain_std.

    Args:
        gains: from `paired_gains`.
        within: level of the index that defines the groups in which variances are compared.
    """
    parts = [
        pd.DataFrame(intervals(group.to_numpy()), index=group.index)
        for _, group in gains.groupby(level=within, sort=False)
    ]
    return pd.concat(parts) if parts else pd.DataFrame(intervals(np.empty((0, 0))), gains.index)


def intervals(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean, 95 % interval and sample standard deviation of each row.

    Student's intervals. Rows of an outlying, larger variance have their own. The others share one
    if Bartlett's test does not reject that it is the same, and have their own otherwise. A row
    without any variation, which is due to rounding, has the shared one.

    Args:
        values: (rows, seeds), NaN where a run is missing.

    Returns:
        gain, gain_low, gain_high, gain_std. The interval is NaN if there are fewer than
        `LEAST_SEEDS` seeds or no variance.
    """
    from scipy.stats import t

    seeds = (~np.isnan(values)).sum(axis=1)
    mean, std = (np.full(len(values), np.nan) for _ in range(2))
    for i, row in enumerate(values):
        found = row[~np.isnan(row)]
        mean[i] = found.mean() if len(found) else np.nan
        std[i] = found.std(ddof=1) if len(found) > 1 else np.nan
    variance, freedom = std**2, seeds - 1.0
    enough, vary = seeds >= LEAST_SEEDS, varies(values)
    variance[~vary] = np.nan
    sharing = without_outliers(values, enough & vary, paired=False)
    if sharing.any() and is_homogeneous(values, sharing):
        pooled = squares(values[sharing], paired=False)
        sharing |= enough & ~vary
        variance[sharing], freedom[sharing] = pooled.variance, pooled.freedom
    half = t.ppf(1 - LEVEL / 2, freedom) * np.sqrt(variance / seeds)
    half[~enough] = np.nan
    return {"gain": mean, "gain_low": mean - half, "gain_high": mean + half, "gain_std": std}
