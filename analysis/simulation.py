"""How often the marks and intervals of tables are wrong, on simulated accuracies.

    python -m analysis.simulation 2000

prints the tables of docs/guide/statistics.md. Accuracies have known differences and spreads: unless
a case says otherwise, the best two rows are equal, and the others are below them by 1, 2, 3, 4 or 6
times the standard deviation of the best. A third of the variance is an effect of the seed that all
rows share.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.gains import intervals
from analysis.marks import compare_with
from analysis.tables.sheet import Sheet, to_markdown
from analysis.variance import LEVEL

SHARED = 1 / 3  # fraction of the variance that is an effect of the seed
GAPS = (1, 2, 3, 4, 6)
COLLAPSED = 60.0  # how far below the best rows are that fail with some seeds

Rows = tuple[np.ndarray, np.ndarray]  # mean below the best, and spread, of each row
Test = Callable[[np.ndarray, int], np.ndarray]  # values and the best row to p-values


class Case(NamedTuple):
    """One kind of comparison: how the spread of rows depends on their place."""

    title: str
    rows: Callable[[np.ndarray, np.random.Generator], Rows]


def _equal(gaps: np.ndarray, rng: np.random.Generator) -> Rows:
    return gaps, np.ones(len(gaps))


def _many_best(gaps: np.ndarray, rng: np.random.Generator) -> Rows:
    return np.where(np.arange(len(gaps)) < len(gaps) // 2, 0.0, gaps), np.ones(len(gaps))


def _collapsed(gaps: np.ndarray, rng: np.random.Generator) -> Rows:
    worst = np.arange(len(gaps)) >= len(gaps) - max(1, len(gaps) // 5)
    return np.where(worst, COLLAPSED, gaps), np.where(worst, 25.0, 1.0)


def _growing(gaps: np.ndarray, rng: np.random.Generator) -> Rows:
    return gaps, 1 + gaps / 2


def _different(gaps: np.ndarray, rng: np.random.Generator) -> Rows:
    return gaps, np.exp(rng.normal(0, 0.5, len(gaps)))


CASES = (
    Case("equal spread", _equal),
    Case("half of the rows are equal to the best", _many_best),
    Case("a fifth of the rows fails with some seeds", _collapsed),
    Case("worse rows have a larger spread", _growing),
    Case("spreads differ at random (log-normal, σ = 0.5)", _different),
)


def draw(case: Case, rows: int, seeds: int, rng: np.random.Generator) -> Rows:
    """Return accuracies (rows, seeds), and how far each row's mean is below the best."""
    gaps = np.array([0.0, 0.0, *np.resize(GAPS, rows - 2)])
    gaps, spread = case.rows(gaps, rng)
    shared = np.sqrt(SHARED) * rng.normal(size=seeds)
    own = np.sqrt(1 - SHARED) * rng.normal(size=(rows, seeds))
    return spread[:, None] * (shared + own) - gaps[:, None], gaps


def comparisons(
    case: Case, rows: int, seeds: int, times: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield accuracies, how far each row is below the best, and the row with the highest mean."""
    rng = np.random.default_rng(0)
    for _ in range(times):
        values, gaps = draw(case, rows, seeds, rng)
        yield values, gaps, int(values.mean(axis=1).argmax())


def share_right(case: Case, rows: int, seeds: int, times: int) -> float:
    """Return the fraction of comparisons in which the row of highest mean is one of the best."""
    found = comparisons(case, rows, seeds, times)
    return float(np.mean([gaps[best] == 0 for _, gaps, best in found]))


def share_marked(test: Test, case: Case, rows: int, seeds: int, times: int) -> dict[float, float]:
    """Return the fraction of rows marked as tied with the best, by their true difference from it.

    Only comparisons count in which the best row by its mean is truly one of the best
    (`share_right`).
    """
    counts = dict[float, list[bool]]()
    for values, gaps, best in comparisons(case, rows, seeds, times):
        if gaps[best]:
            continue
        for gap, p, row in zip(gaps, test(values, best), range(rows), strict=True):
            if row != best:
                counts.setdefault(float(gap), []).append(bool(p >= LEVEL))
    return {gap: float(np.mean(marked)) for gap, marked in sorted(counts.items())}


def coverage(
    make: Callable[[np.ndarray], dict[str, np.ndarray]],
    case: Case,
    rows: int,
    seeds: int,
    times: int,
) -> tuple[float, float]:
    """Return the fraction of intervals that contain the true gain, and their median width."""
    rng, inside, widths = np.random.default_rng(0), [], []
    for _ in range(times):
        _, spread = case.rows(np.resize(GAPS, rows).astype(float), rng)
        found = make(spread[:, None] * rng.normal(size=(rows, seeds)))
        inside += list((found["gain_low"] <= 0) & (found["gain_high"] >= 0))
        widths.append(np.median(found["gain_high"] - found["gain_low"]))
    return float(np.mean(inside)), float(np.mean(widths))


# ---- what the marks of tables are compared with


def welch(values: np.ndarray, best: int) -> np.ndarray:
    """Return the p-values of Welch's t-tests against the best row."""
    from scipy.stats import ttest_ind

    found = ttest_ind(values, values[best : best + 1], axis=1, equal_var=False)
    return np.array(found.pvalue)  # 1 for the best row itself


def welch_with_holm(values: np.ndarray, best: int) -> np.ndarray:
    """Return the p-values of `welch`, adjusted by Holm's method (1979)."""
    p_values = welch(values, best)
    order = np.argsort(p_values)  # the best row is the last: its p-value is 1
    factors = np.arange(len(order))[::-1]
    p_values[order] = np.minimum(1, np.maximum.accumulate(factors * p_values[order]))
    return p_values


def paired(values: np.ndarray, best: int) -> np.ndarray:
    """Return the p-values of paired t-tests against the best row, each with its own variance."""
    pairs = (np.stack([values[best], row]) for row in values)
    return np.array([compare_with(pair, 0)[1] for pair in pairs])


def own_intervals(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return intervals that share no variance."""
    parts = [intervals(row[None]) for row in values]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


TESTS: dict[str, Test] = {
    "signbench": compare_with,
    "paired t-test": paired,
    "Welch's t-test": welch,
    "Welch's t-test, Holm's correction": welch_with_holm,
}


def mark_tables(
    times: int, rows: int = 20, seeds: int = 3
) -> Iterator[tuple[str, pd.DataFrame, float]]:
    """Yield a title, and the percentages of rows marked and of bold rows that are right.

    The first ones are by test and true difference (`share_marked`), the last one is `share_right`.
    """
    for case in CASES:
        found = {name: share_marked(t, case, rows, seeds, times) for name, t in TESTS.items()}
        right = share_right(case, rows, seeds, times)
        yield case.title, 100 * pd.DataFrame(found).T, 100 * right


def interval_table(times: int, rows: int = 10, seeds: int = 3) -> pd.DataFrame:
    """Return coverage in percent and mean width of intervals, by kind of comparison."""
    makers = {"signbench": intervals, "each row's own": own_intervals}
    found = {}
    for case in (case for case in CASES if case.rows is not _many_best):
        numbers = [coverage(make, case, rows, seeds, times) for make in makers.values()]
        found[case.title] = [value for share, width in numbers for value in (100 * share, width)]
    columns = [f"{name}: {what}" for name in makers for what in ("coverage", "width")]
    return pd.DataFrame(found, index=columns).T


def main(times: int) -> None:
    """Print the tables of docs/guide/statistics.md."""
    for title, table, right in mark_tables(times):
        names = ["equal" if not gap else f"{gap:g} below" for gap in table]
        note = f"The bold row is truly one of the best in {right:.1f} % of the comparisons."
        _print(title, table.set_axis(names, axis=1), note)
    _print("intervals", interval_table(times))


def _print(title: str, table: pd.DataFrame, *notes: str) -> None:
    cells = table.map("{:.1f}".format).reset_index(names="")
    plain = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    print(
        to_markdown(Sheet(f"### {title[0].upper()}{title[1:]}", cells, plain, notes=notes)) + "\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
