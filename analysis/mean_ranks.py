"""Ranks of methods over several comparisons, such as all recipes and sparsities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.variance import LEVEL, ROUNDING
from baselines.errors import UserError, require

LEAST_BLOCKS, LEAST_ROWS = 5, 3  # with fewer there is no test


@dataclass(frozen=True)
class Ranks:
    """Average ranks over blocks: the comparisons at one recipe and sparsity each.

    Attributes:
        table: one row per method, best first, with its fields and

            rank: average rank; 1 is the best, and equal accuracies share the mean of their ranks
            first: in how many blocks it is the best or equal to the best
            blocks, runs, failed: number of blocks, of runs in them, and of those that failed
            tied: whether the rank is within the critical difference of the best one
        p_value: of Friedman's test that all methods are alike, by the F distribution (Iman and
            Davenport 1980); NaN if there are fewer than 5 blocks or 3 methods
        critical_difference: between two average ranks, of Nemenyi's test at 5 %; NaN likewise
        left_out: number of methods that are missing in a block
    """

    table: pd.DataFrame
    p_value: float
    critical_difference: float
    left_out: int


def rank_summary(numbers: pd.DataFrame, rows: Sequence[str], columns: Sequence[str]) -> Ranks:
    """Rank the methods in each block by their mean accuracies.

    The most common block shares most methods with the others. Blocks with less than half of its
    methods are left out (as that of dense training, at sparsity 0), and so are then methods that
    are missing in a block.

    Args:
        numbers: from `analysis.statistics.aggregate`, without rows that do not compete.
        rows, columns: names of its columns: the fields that define a method, and a block.

    Raises:
        UserError: all fields are rows, or fewer than two blocks have the same two methods.
    """
    methods = [*rows, "rule"]
    blocks = [field for field in dict.fromkeys(["recipe", *columns]) if field not in methods]
    require(
        len(blocks) > 0, "ranks are averaged over columns or recipes: leave one out of the rows."
    )
    accuracy = numbers.groupby([*methods, *blocks], dropna=False)["accuracy"].mean()
    wide = accuracy.unstack(blocks)
    wide = wide.loc[:, _comparable(wide.notna().to_numpy())]
    complete = wide.dropna()
    if min(complete.shape) < 2:
        raise UserError(
            "ranks need two methods or more at the same two recipes or sparsities or more; here, "
            f"{len(complete)} share {complete.shape[1]}. Run the same methods at another one: "
            "signbench grid NAME --sparsity S, or --recipe."
        )
    complete = (complete / ROUNDING).round()  # means that differ by rounding are equal
    ranks = complete.rank(ascending=False)
    groups = numbers.groupby([*methods, *blocks], dropna=False)
    runs, failed = (
        groups[name].sum().unstack(blocks).reindex_like(complete).sum(axis=1).astype(int)
        for name in ("runs", "failed")
    )
    table = pd.DataFrame(
        {
            "rank": ranks.mean(axis=1),
            "first": complete.eq(complete.max()).sum(axis=1),
            "blocks": complete.shape[1],
            "runs": runs,
            "failed": failed,
        }
    )
    table = table.sort_values("rank", kind="stable")
    p_value, critical = friedman(ranks.to_numpy()), critical_difference(*complete.shape)
    worse = table["rank"] - table["rank"].iloc[0]
    table["tied"] = (worse <= critical) & (np.arange(len(table)) > 0)  # False for NaN
    return Ranks(table.reset_index(), p_value, critical, len(wide) - len(complete))


def _comparable(present: np.ndarray) -> np.ndarray:
    """Return which blocks have at least half of the methods of the most common block.

    Args:
        present: (methods, blocks), whether a block has a method.
    """
    shared = present.T.astype(int) @ present.astype(int)  # number of methods of each two blocks
    common = shared.sum(0).argmax()
    return np.asarray(2 * shared[common] >= shared[common, common])


def friedman(ranks: np.ndarray) -> float:
    """Return the p-value of Friedman's test with Iman and Davenport's correction.

    Args:
        ranks: (methods, blocks), within each block.
    """
    from scipy.stats import f, friedmanchisquare

    methods, blocks = ranks.shape
    if methods < LEAST_ROWS or blocks < LEAST_BLOCKS:
        return float("nan")
    chi_square = friedmanchisquare(*ranks).statistic
    rest = blocks * (methods - 1) - chi_square
    if rest <= 0:  # the same order in all blocks
        return 0.0
    statistic = (blocks - 1) * chi_square / rest
    return float(f.sf(statistic, methods - 1, (methods - 1) * (blocks - 1)))


def critical_difference(methods: int, blocks: int) -> float:
    """Return Nemenyi's critical difference of two average ranks at 5 % (Demšar 2006, eq. 6)."""
    from scipy.stats import studentized_range

    if methods < LEAST_ROWS or blocks < LEAST_BLOCKS:
        return float("nan")
    q = studentized_range.ppf(1 - LEVEL, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))
