"""Sign flips from epoch to epoch: by span and layer, worked by hand, and in the table."""

from __future__ import annotations

import pandas as pd
import pytest
from small_digits import CHEAPER, small_digits
from structure import check_latex
from test_launch_train import train

from analysis.conditions import select_runs
from analysis.flips import flips_in_spans
from analysis.folder import list_runs
from analysis.frame import load_runs
from analysis.tables import make_table
from baselines.errors import UserError
from launch.cli import main
from launch.config.machine import Machine
from launch.config.run import Run

pytestmark = pytest.mark.xdist_group("flips")  # the tests share their runs


def layers_of(flips, weights, warmup=1):
    """Return the rows of a layers.csv.

    Args:
        flips: by layer, the number of flips in each epoch.
        weights: by layer, the number of weights that are compared.
    """
    return pd.DataFrame(
        {
            "epoch": epoch,
            "layer": layer,
            "final_flips_previous": count,
            "final_compared_previous": weights[layer],
            "flips_warmup": 0 if epoch >= warmup else None,
        }
        for layer, counts in flips.items()
        for epoch, count in enumerate(counts)
    )


def values(table):
    return {(row["layer"], row["span"]): row["value"] for row in table.to_dict("records")}


def test_spans_worked():
    layers = layers_of({"a": [2, 1, 3, 0, 1], "b": [0, 6, 3, 3, 0]}, {"a": 10, "b": 30})
    found = values(flips_in_spans(layers, until=3))  # warm-up: epoch 1; to T₂: 2 and 3; then 4, 5
    expected = {
        ("a", "warm-up"): 20,
        ("a", "to T₂"): 40,
        ("a", "after T₂"): 10,
        ("a", "whole run"): 70,
        ("b", "warm-up"): 0,
        ("b", "to T₂"): 30,
        ("b", "after T₂"): 10,
        ("b", "whole run"): 40,
        ("all", "warm-up"): 5,
        ("all", "to T₂"): 100 * 13 / 40,
        ("all", "after T₂"): 10,
        ("all", "whole run"): 100 * 19 / 40,
    }
    assert found == pytest.approx(expected)


def test_weights_without_a_sign_and_lost_epochs_are_not_counted():
    """A weight that has just grown has no sign before, and an epoch without signs has no cells."""
    layers = layers_of({"a": [10, 0, 7]}, {"a": 100}, warmup=3)
    layers["final_compared_previous"] = [50, 100, None]
    layers["final_flips_previous"] = [10, 0, None]
    found = values(flips_in_spans(layers, until=3))
    assert found["a", "warm-up"] == pytest.approx(100 * 3 * 10 / 150)


@pytest.mark.parametrize(
    "until, left_out", [(0, "to T₂"), (1, "to T₂"), (5, "after T₂"), (9, "after T₂")]
)
def test_spans_without_epochs_are_left_out(until, left_out):
    layers = layers_of({"a": [2, 1, 3, 0, 1]}, {"a": 10})
    found = values(flips_in_spans(layers, until))
    assert len(found) == 2 * 3 and ("a", left_out) not in found
    assert found["a", "whole run"] == pytest.approx(70)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Train short runs, plain and with Sign-In at two T₂, and a method that trains in levels."""
    root = tmp_path_factory.mktemp("flips")
    machine = Machine(runs=root, data_dir=root, device="cpu", workers=0, threads=1)
    for seed in (0, 1):
        for rule in ({}, {"sign_in": True}, {"sign_in": True, "rescale_until": 0.75}):
            choices = small_digits(epochs=4, seed=seed, **rule)
            train(Run.make("digits", "random", **choices), machine)
    levels = small_digits(epochs=2, level_length=0.5, **CHEAPER["lrr"])
    train(Run.make("digits", "lrr", **levels), machine)
    return root


def test_the_table_has_the_means_of_the_files(root):
    runs = load_runs(list_runs(root))
    table = make_table("flips", runs)
    assert [sheet.title for sheet in table.sheets] == [
        f"Sign flips by layer, {span}" for span in ("warm-up", "to T₂", "after T₂", "whole run")
    ]
    numbers = table.numbers
    assert set(numbers["label"]) == {"random"}  # each level of LRR has a T₂ of its own
    own = numbers[(numbers["rule"] == "Sign-In") & (numbers["layer"] == "8.weight")]
    for until, first, end in ((0.5, 1, 2), (0.75, 1, 3)):
        chosen = runs[runs["sign_in"] & (runs["settings.sign_in.rescale_until"] == until)]
        found = []
        for folder in chosen["folder"]:
            rows = pd.read_csv(folder / "layers.csv").query("layer == '8.weight'")
            between = rows[(rows["epoch"] >= first) & (rows["epoch"] < end)]
            sums = between[["final_flips_previous", "final_compared_previous"]].sum()
            found.append(100 * (end - first) * sums.iloc[0] / sums.iloc[1])
        (row,) = own[
            (own["settings.sign_in.rescale_until"] == until) & (own["span"] == "to T₂")
        ].to_dict("records")
        assert row["flips"] == pytest.approx(sum(found) / 2) and row["runs"] == 2
        assert row["std"] == pytest.approx(pd.Series(found).std())
    cells = table.sheets[1].cells
    assert list(cells.columns) == ["T₂", "", "0", "2", "4", "8", "all"]
    assert cells[""].tolist() == ["", "Sign-In", "Sign-In"]
    assert cells["T₂"].tolist() == ["0.5", "0.5", "0.75"]


def test_runs_of_one_row_with_other_spans_are_refused(root):
    """A plain run has the settings of Sign-In with which it was first started."""
    runs = load_runs(list_runs(root))
    other = (runs["rule"] == "") & (runs["seed"] == 1)
    runs.loc[other, "settings.sign_in.rescale_until"] = 0.25
    with pytest.raises(UserError, match=r"differ in T₂ \(rescale_until 0.25, 0.5\): choose with"):
        make_table("flips", runs)
    chosen = make_table("flips", select_runs(runs, ["rescale_until=0.25"]))
    assert set(chosen.numbers["until"]) == {0.25} and set(chosen.numbers["runs"]) == {1}
    assert chosen.sheets[-1].cells["T₂"].tolist() == ["0.25"]


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_it_is_printed(root, capsys, form):
    assert main(["table", "flips", "--runs", str(root), "--format", form]) == 0
    shown = capsys.readouterr().out
    assert "8" in shown
    if form == "latex":
        assert check_latex(shown) == 4


def test_runs_without_flips_are_refused(root):
    runs = load_runs(list_runs(root))
    with pytest.raises(UserError, match="no run has sign flips"):
        make_table("flips", runs[runs["method"] == "lrr"])
