"""Marks and intervals, compared with classical formulas and checked on known differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import quad

from analysis.gains import intervals
from analysis.marks import compare_with, mark_best, rows_like
from analysis.simulation import (
    CASES,
    TESTS,
    coverage,
    own_intervals,
    share_marked,
    share_right,
    welch_with_holm,
)
from analysis.variance import is_homogeneous, squares, without_noisier, without_outliers

NAN = float("nan")
# rows of equal variance around means of their own and an effect of each seed
MEANS = np.array([92.0, 91.6, 90.5, 88.0, 85.0, 80.0])
NOISE = np.array(
    [
        [0.31, -0.12, 0.22],
        [-0.25, 0.30, 0.11],
        [0.14, 0.05, -0.33],
        [-0.41, 0.21, 0.02],
        [0.08, -0.27, 0.35],
        [0.02, 0.19, -0.28],
    ]
)
ALIKE = MEANS[:, None] + NOISE + np.array([1.0, -2.0, 0.5])
ALL = np.ones(len(ALIKE), dtype=bool)


def test_two_rows_are_compared_by_a_paired_t_test():
    one, other = ALIKE[:2]
    p = compare_with(np.stack([one, other]), 0)
    assert np.isnan(p[0])
    assert p[1] == pytest.approx(stats.ttest_rel(one, other).pvalue)


def test_two_rows_without_common_seeds_are_compared_by_an_unpaired_t_test():
    values = np.full((2, 7), NAN)
    values[0, :3], values[1, 3:] = ALIKE[0], [91.0, 91.8, 91.1, 90.4]
    p = compare_with(values, 0)
    assert p[1] == pytest.approx(stats.ttest_ind(values[0, :3], values[1, 3:]).pvalue)


def test_rows_of_equal_variance_share_it():
    """The residual variance of a two-way table without repetitions, worked out by sums."""
    grand = ALIKE.mean()
    residuals = ALIKE - ALIKE.mean(1, keepdims=True) - ALIKE.mean(0) + grand
    freedom = (6 - 1) * (3 - 1)
    variance = (residuals**2).sum() / freedom
    found = squares(ALIKE, paired=True)
    assert (found.variance, found.freedom) == pytest.approx((variance, freedom))
    p = compare_with(ALIKE, 0)
    for row in range(1, 6):
        t = (ALIKE[0].mean() - ALIKE[row].mean()) / np.sqrt(2 * variance / 3)
        assert p[row] == pytest.approx(2 * stats.t.sf(t, freedom))
    # in the spread of two rows alone, fewer differences are seen
    power = [
        sum(p[1:] < 0.001),
        sum(stats.ttest_rel(ALIKE[0], r).pvalue < 0.001 for r in ALIKE[1:]),
    ]
    assert power == [4, 2]


def test_the_effect_of_a_seed_that_all_rows_share_cancels():
    assert compare_with(ALIKE + np.array([0.0, 50.0, -3.0]), 0)[1:] == pytest.approx(
        compare_with(ALIKE, 0)[1:]
    )


def test_rows_that_fail_with_some_seeds_do_not_hide_the_others():
    broken = np.vstack([ALIKE, [[91.5, 40.0, 91.0], [30.0, 60.0, 45.0]]])
    assert without_outliers(broken, np.ones(8, bool), paired=True).tolist() == [*ALL, False, False]
    p = compare_with(broken, 0)
    assert p[1:6] == pytest.approx(compare_with(ALIKE, 0)[1:])
    assert (p[6:] < 1e-6).all()


def test_a_collapsed_row_is_not_tied_with_the_best():
    """37.34 ± 11.95 and 98.27, as a table had marked it."""
    values = np.array(
        [[98.1, 98.3, 98.4], [97.9, 98.4, 98.2], [98.0, 98.2, 98.1], [49.0, 37.9, 25.1]]
    )
    assert values[3].std(ddof=1) == pytest.approx(11.95, abs=0.05)
    p = compare_with(values, 0)
    assert p[1] > 0.05 and p[3] < 1e-4


def test_worse_rows_of_larger_variance_are_left_out():
    growing = MEANS[:, None] + NOISE * np.array([1, 1, 1, 9, 9, 9])[:, None]
    assert without_noisier(growing, ALL, paired=True).tolist() == [True] * 3 + [False] * 3
    assert rows_like(growing, 0, ALL, paired=True).tolist() == [True] * 3 + [False] * 3
    assert compare_with(growing, 0)[2] == pytest.approx(compare_with(growing[:3], 0)[2])


def test_an_unstable_best_row_is_compared_by_its_own_variance():
    values = np.vstack([ALIKE[1:], [[99.9, 80.0, 99.0]]])
    p = compare_with(values, 5)
    assert p[0] == pytest.approx(stats.ttest_rel(values[5], values[0]).pvalue)


def test_rows_are_compared_with_the_best_wherever_it_is():
    index = pd.MultiIndex.from_product([["a", "b"], range(3)], names=["recipe", "row"])
    rows = ALIKE[[3, 0, 1]]  # 88, 92 and 91.6
    values = pd.DataFrame(np.vstack([rows, rows[::-1]]), index)
    found = mark_best(values, pd.Series([True] * 6, index), ["recipe"])
    assert found["best"].tolist() == [False, True, False] * 2
    assert found["tied"].tolist() == [False, False, True, True, False, False]
    without = mark_best(values, pd.Series([True, False, True] * 2, index), ["recipe"])
    assert without["best"].tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize(("ratio", "left_out"), [(6.0, False), (10.0, True)])
def test_a_row_of_larger_variance_is_an_outlier_at_five_percent_of_all_rows(ratio, left_out):
    """F(2, 10) above 6 and 10 has p = 0.019 and 0.0041; for six rows they must be below 0.0083."""
    values = np.tile([-1.0, 0.0, 1.0], (6, 1))
    values[2] *= np.sqrt(ratio)
    kept = without_outliers(values, ALL, paired=False)
    assert kept.tolist() == [True, True, not left_out, True, True, True]


def test_holms_method_multiplies_by_the_number_of_tests_that_are_left():
    values = ALIKE[[5, 0, 3, 2, 1]] + np.array([[0], [0], [0], [-2.4], [0]])  # two near 88
    p = {i: stats.ttest_ind(values[1], values[i], equal_var=False).pvalue for i in (0, 2, 3, 4)}
    order = sorted(p, key=p.__getitem__)
    multiples = [(4 - i) * p[row] for i, row in enumerate(order)]
    assert multiples[2] < multiples[1] and multiples[3] < 1  # a later one is not below an earlier
    expected = {row: max(multiples[: i + 1]) for i, row in enumerate(order)}
    found = welch_with_holm(values, 1)
    assert {row: found[row] for row in p} == pytest.approx(expected)


def test_fewer_than_three_seeds_give_no_mark():
    two = np.where(np.arange(3) < 2, ALIKE, NAN)
    assert np.isnan(compare_with(two, 0)).all()
    one_short = ALIKE.copy()
    one_short[1, 0] = NAN
    p = compare_with(one_short, 0)
    assert np.isnan(p[1]) and not np.isnan(p[2:]).any()
    assert np.isnan(compare_with(one_short, 1)).all()


def test_equal_values_are_tied_and_different_constants_are_not():
    values = np.array([[91.5] * 3, [91.5] * 3, [91.0] * 3])
    assert compare_with(values, 0)[1:].tolist() == [1.0, 0.0]


def test_missing_runs_leave_the_model_of_the_others():
    values = np.hstack([ALIKE, ALIKE[:, :1] + 0.2])
    values[2, 1] = NAN
    rows, seeds = np.nonzero(~np.isnan(values))
    design = np.hstack([np.eye(6)[rows], np.eye(4)[seeds][:, 1:]])  # one seed as the reference
    y = values[rows, seeds]
    residuals = y - design @ np.linalg.solve(design.T @ design, design.T @ y)
    found = squares(values, paired=True)
    assert found.freedom == pytest.approx(len(y) - 6 - 3)
    assert found.variance == pytest.approx((residuals**2).sum() / found.freedom)


def test_intervals_of_equal_variance_share_it():
    assert is_homogeneous(ALIKE, ALL) == (stats.bartlett(*ALIKE).pvalue >= 0.05)
    found = intervals(NOISE)
    pooled = NOISE.var(axis=1, ddof=1).mean()
    half = stats.t.ppf(0.975, 12) * np.sqrt(pooled / 3)
    assert found["gain_high"] - found["gain"] == pytest.approx(np.full(6, half))
    assert found["gain_low"] == pytest.approx(NOISE.mean(1) - half)
    assert found["gain_std"] == pytest.approx(NOISE.std(axis=1, ddof=1))


def test_intervals_of_unequal_variance_are_their_own():
    wild = NOISE * np.array([1, 1, 1, 1, 1, 40])[:, None]
    found = intervals(wild)
    half = stats.t.ppf(0.975, 2) * wild[5].std(ddof=1) / np.sqrt(3)
    assert found["gain_high"][5] - found["gain"][5] == pytest.approx(half)
    half = stats.t.ppf(0.975, 10) * np.sqrt(NOISE[:5].var(axis=1, ddof=1).mean() / 3)
    assert found["gain_high"][:5] - found["gain"][:5] == pytest.approx(np.full(5, half))
    spread = NOISE * np.array([0.01, 0.02, 0.03, 1, 1.1, 1.2])[:, None]  # no single outlier
    found = intervals(spread)
    half = stats.t.ppf(0.975, 2) * spread.std(axis=1, ddof=1) / np.sqrt(3)
    assert found["gain_high"] - found["gain"] == pytest.approx(half)


def test_no_interval_is_of_zero_width_or_of_two_seeds():
    found = intervals(np.vstack([NOISE, [-0.5] * 3]))
    assert found["gain"][6] == -0.5
    assert found["gain_low"][6] < -0.5 < found["gain_high"][6]
    alone = intervals(np.array([[-0.5] * 3, [-0.5] * 3]))
    assert np.isnan(alone["gain_low"]).all() and alone["gain"].tolist() == [-0.5, -0.5]
    two = intervals(np.array([[0.1, 0.4, NAN], [0.1, 0.4, 0.2]]))
    assert np.isnan(two["gain_low"][0]) and not np.isnan(two["gain_low"][1])
    assert two["gain_std"][0] == pytest.approx(np.std([0.1, 0.4], ddof=1))


def test_marks_are_right_more_often_than_by_other_tests():
    """A small version of the tables in docs/guide/statistics.md."""
    for case in CASES:
        rates = {name: share_marked(test, case, 12, 3, times=40) for name, test in TESTS.items()}
        ours, holm = rates["signbench"], rates["Welch's t-test, Holm's correction"]
        assert ours[0.0] > 0.8, case.title
        for gap in (3.0, 4.0, 6.0):
            assert ours[gap] < 0.6 * holm[gap], (case.title, gap)
    equal = share_marked(compare_with, CASES[0], 12, 3, times=200)
    assert 0.9 < equal[0.0] < 0.99 and equal[3.0] < 0.05 and equal[6.0] < 0.02


def test_the_share_of_right_bold_rows_is_that_of_normal_means():
    """Of two equal rows and one that is 1 below them, with 2/3 of the variance of each its own."""
    deviation = np.sqrt(2 / 3 / 3)  # of the means of three seeds
    wrong, _ = quad(lambda z: stats.norm.pdf(z) * stats.norm.cdf(z - 1 / deviation) ** 2, -9, 9)
    assert share_right(CASES[0], 3, 3, times=20_000) == pytest.approx(1 - wrong, abs=0.005)


def test_intervals_contain_the_true_gain_and_are_narrower_than_those_of_single_rows():
    share, width = coverage(intervals, CASES[0], 10, 3, times=100)
    own_share, own_width = coverage(own_intervals, CASES[0], 10, 3, times=100)
    assert 0.92 < share < 0.98 and 0.92 < own_share < 0.98
    assert width < 0.7 * own_width
    assert all(coverage(intervals, case, 10, 3, times=100)[0] > 0.88 for case in CASES)
