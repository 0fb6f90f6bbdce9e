"""Average ranks, Friedman's and Nemenyi's tests, on Demšar's example and small made-up tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f, rankdata
from synthetic_runs import FEW, write_runs
from test_analysis_tables import write_run

from analysis.folder import list_runs
from analysis.frame import load_runs
from analysis.mean_ranks import critical_difference, friedman, rank_summary
from analysis.tables import make_table
from baselines.errors import UserError

# Demšar 2006, Table 2: AUC of C4.5 and three variants with tuned parameters on 14 data sets
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],  # both 0.975 as printed, with ranks 2 and 3
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def table_of(accuracies):
    """Return a DataFrame as `aggregate` does, of accuracies (blocks, methods)."""
    return pd.DataFrame(
        {"recipe": f"set {i}", "label": name, "rule": "", "sparsity": 0.9, "runs": 3, "failed": 0}
        | {"accuracy": 100 * value}
        for i, row in enumerate(accuracies)
        for name, value in zip("abcd", row, strict=False)
    )


def test_ranks_and_critical_difference_are_demsars():
    found = rank_summary(table_of(DEMSAR), ["label"], ["sparsity"])
    ranks = found.table.set_index("label")["rank"]
    assert ranks.round(3).to_dict() == {"a": 3.143, "b": 2.0, "c": 2.893, "d": 1.964}
    ranks = DEMSAR.shape[1] + 1 - rankdata(DEMSAR, axis=1)
    chi_square = 3 * ((ranks.sum(0) - 35) ** 2).sum() / ((ranks - 2.5) ** 2).sum()  # Conover, ties
    statistic = 13 * chi_square / (14 * 3 - chi_square)
    assert statistic == pytest.approx(4.2, abs=0.1)  # his 3.69 is without correction for ties
    assert found.p_value == pytest.approx(f.sf(statistic, 3, 39))
    # his q is 2.569
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=2e-3)
    assert found.table["tied"].tolist() == [False, True, True, True]
    assert found.table["label"].tolist() == ["d", "b", "c", "a"]
    assert found.table["first"].tolist() == [7, 5, 2, 3]


def test_the_same_order_everywhere_is_certain():
    order = np.tile(np.array([[1], [2], [3]]), (1, 6))
    assert friedman(order) == 0.0
    assert np.isnan(friedman(order[:, :4])) and np.isnan(critical_difference(2, 9))


def test_methods_without_all_comparisons_are_left_out():
    numbers = table_of(DEMSAR[:3])
    single = pd.DataFrame([{**numbers.iloc[0], "recipe": "alone", "label": "e"}])
    found = rank_summary(pd.concat([numbers.drop(index=2), single]), ["label"], ["sparsity"])
    assert sorted(found.table["label"]) == ["a", "b", "d"] and found.left_out == 2
    assert found.table["blocks"].tolist() == [3, 3, 3] and np.isnan(found.p_value)
    with pytest.raises(UserError, match="two methods or more"):
        rank_summary(numbers[numbers["recipe"] == "set 0"], ["label"], ["sparsity"])


def test_dense_training_is_left_out_where_it_has_as_many_rows_as_each_sparsity():
    numbers = pd.DataFrame(
        {"recipe": "digits", "label": label, "rule": rule, "sparsity": sparsity, "runs": 3}
        | {"failed": 0, "accuracy": 90 - 10 * sparsity + len(rule)}
        for label, sparsity in (("dense", 0.0), ("random", 0.9), ("random", 0.95))
        for rule in ("", "Sign-In")
    )
    found = rank_summary(numbers, ["label"], ["sparsity"])
    assert found.table[["label", "rule", "rank"]].values.tolist() == [
        ["random", "Sign-In", 1.0],
        ["random", "", 2.0],
    ]
    assert found.table["blocks"].tolist() == [2, 2] and found.left_out == 2


def test_recipes_are_averaged_over_however_they_are_named(tmp_path):
    runs = pd.concat(write_runs(tmp_path / name, FEW, recipe=name) for name in ("a", "b"))
    expected = make_table("ranks", runs).numbers
    assert expected["blocks"].tolist() == [2] * 6
    for columns in (["recipe"], ["recipe", "sparsity"]):
        pd.testing.assert_frame_equal(make_table("ranks", runs, columns=columns).numbers, expected)
    by_sparsity = make_table("ranks", runs, rows=["method", "sparsity"]).numbers
    assert by_sparsity["blocks"].tolist() == [2] * 6
    with pytest.raises(UserError, match="leave one out of the rows"):
        make_table("ranks", runs, rows=["method", "sparsity", "recipe"])


def test_the_table_of_ranks(tmp_path):
    runs = write_runs(tmp_path, FEW, (0.8, 0.9, 0.95, 0.98, 0.99))
    table = make_table("ranks", runs)
    assert table.numbers["rank"].sum() == pytest.approx(6 * 7 / 2)
    (sheet,) = table.sheets
    assert sheet.title == "Average ranks over 5 comparisons"
    assert sheet.bold["average rank"].tolist() == [True] + [False] * 5
    assert "Friedman" in sheet.notes[1] and "critical difference" in sheet.notes[1]
    assert "no test" in make_table("ranks", runs[runs["sparsity"] < 0.95]).sheets[0].notes[1]
    with pytest.raises(UserError, match="6 share 1. Run .*: signbench grid NAME"):
        make_table("ranks", runs[runs["sparsity"] == 0.9])
    other = runs["label"].map({"random": 0.8, "rigl": 0.8, "acdc": 0.9}) == runs["sparsity"]
    with pytest.raises(UserError, match="4 share 1"):  # of six, two of which are at another one
        make_table("ranks", runs[other])


def test_runs_are_counted_in_the_comparisons_that_are_ranked():
    numbers = table_of(DEMSAR[:3]).assign(failed=1)
    alone = {**numbers.iloc[0], "recipe": "alone", "runs": 7, "failed": 2}  # one method: left out
    found = rank_summary(pd.concat([numbers, pd.DataFrame([alone])]), ["label"], ["sparsity"])
    assert found.table["blocks"].tolist() == [3] * 4
    assert found.table["runs"].tolist() == [9] * 4
    assert found.table["failed"].tolist() == [3] * 4


def test_means_that_differ_by_rounding_share_a_rank():
    sums = [100 * np.mean(x) for x in ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.0, 0.0, 0.1])]
    assert sums[0] != sums[1]
    numbers = table_of(np.array([sums, sums]) / 100)
    numbers["accuracy"] = [*sums, *sums]
    table = rank_summary(numbers, ["label"], ["sparsity"]).table.set_index("label")
    assert table["rank"].to_dict() == {"a": 1.5, "b": 1.5, "c": 3}
    assert table["first"].to_dict() == {"a": 2, "b": 2, "c": 0}


def test_failed_seeds_are_marked(tmp_path):
    for sparsity in (0.8, 0.9):
        write_run(tmp_path, "random", 0.9, 0, sparsity=sparsity)
        write_run(tmp_path, "rigl", 0.91, 0, sparsity=sparsity)
    write_run(tmp_path, "rigl", None, 1, sparsity=0.8)
    (sheet,) = make_table("ranks", load_runs(list_runs(tmp_path))).sheets
    assert sheet.cells["average rank"].tolist() == ["1.00*", "2.00"]
    assert "* some seeds failed and are not included in the mean" in sheet.notes
