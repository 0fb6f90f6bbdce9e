"""The variance over seeds, shared by the rows in which it does not differ.

Three seeds give a variance with two degrees of freedom: too few to compare two means. The rows of a
comparison often have equal variances, and then all of them can estimate it together.

Throughout, `values` is an array (rows, seeds) with NaN where a run is missing, and `rows` is a
boolean mask of the rows that are used. With `paired`, each seed has an effect that is the same in
all rows, as runs with the same seed share data and initialisation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEVEL = 0.05  # level of significance of all tests; the confidence of intervals is one minus it
ROUNDING = 1e-9  # percentage points


class Squares(NamedTuple):
    """Per row, the sum of squared residuals and its degrees of freedom."""

    sums: np.ndarray
    freedoms: np.ndarray

    @property
    def variance(self) -> float:
        """The variance that all rows estimate together."""
        return float(self.sums.sum() / self.freedoms.sum())

    @property
    def freedom(self) -> float:
        return float(self.freedoms.sum())

    def part(self, rows: np.ndarray) -> Squares:
        return Squares(self.sums[rows], self.freedoms[rows])


def squares(values: np.ndarray, paired: bool) -> Squares:
    """Return the squares around one mean per row and, if paired, one effect per seed.

    The model is fitted by least squares. The degrees of freedom that the effects of seeds take are
    taken from all rows in proportion to their own.
    """
    row, seed = np.nonzero(~np.isnan(values))
    design = np.eye(len(values))[row]
    if paired:
        design = np.hstack([design, np.eye(values.shape[1])[seed]])
    y = values[row, seed]
    solution, _, rank, _ = np.linalg.lstsq(design, y)
    residuals = y - design @ solution
    residuals[abs(residuals) < ROUNDING] = 0.0
    own = np.bincount(row, minlength=len(values)) - 1.0
    freedoms = own * (len(y) - rank) / own.sum()
    return Squares(np.bincount(row, residuals**2, len(values)), freedoms)


def p_larger(upper: Squares, lower: Squares) -> float:
    """Return the p-value of an F-test: is the variance of the first rows larger?"""
    from scipy.stats import f

    if not lower.variance:
        return float(not upper.variance)
    return float(f.sf(upper.variance / lower.variance, upper.freedom, lower.freedom))


def without_outliers(values: np.ndarray, rows: np.ndarray, paired: bool) -> np.ndarray:
    """Return the rows without those of an outlying, larger variance.

    As in Cochran's test (1941; ISO 5725-2): as long as an F-test of the row with the most
    significantly larger variance against all others rejects, at 5 % divided by the number of rows,
    the row is left out.
    """
    rows = rows.copy()
    while rows.sum() > 2:
        found = squares(values[rows], paired)
        each = np.eye(rows.sum(), dtype=bool)
        p = np.array([p_larger(found.part(one), found.part(~one)) for one in each])
        if p.min() * len(p) >= LEVEL:
            break
        rows[np.flatnonzero(rows)[p.argmin()]] = False
    return rows


def without_noisier(values: np.ndarray, rows: np.ndarray, paired: bool) -> np.ndarray:
    """Return the rows without the worse ones, if these have a larger variance.

    As in the test of Goldfeld and Quandt (1965): rows are ordered, by their means, and the worse
    half is left out as long as an F-test of its variance against that of the better half rejects
    at 5 %.
    """
    kept = np.flatnonzero(rows)
    kept = kept[np.argsort(-np.nanmean(values[kept], axis=1), kind="stable")]
    while len(kept) >= 4:
        found, worse = squares(values[kept], paired), np.arange(len(kept)) >= len(kept) // 2
        if p_larger(found.part(worse), found.part(~worse)) >= LEVEL:
            break
        kept = kept[~worse]
    return np.isin(np.arange(len(values)), kept)


def is_homogeneous(values: np.ndarray, rows: np.ndarray) -> bool:
    """Return whether Bartlett's test (1937) of equal variances does not reject at 5 %."""
    from scipy.stats import bartlett

    samples = [row[~np.isnan(row)] for row in values[rows]]
    return len(samples) < 2 or bool(bartlett(*samples).pvalue >= LEVEL)


def varies(values: np.ndarray) -> np.ndarray:
    """Return a mask of the rows that do not have the same value for all seeds."""
    return np.array([np.ptp(row[~np.isnan(row)]) > ROUNDING for row in values], dtype=bool)
