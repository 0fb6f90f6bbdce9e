"""Accuracy against sparsity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.groups import by_method
from analysis.figures.style import COLUMN, PAGE, legend_below, look, subplots
from analysis.frame import finished_runs
from analysis.names import legend_entry
from analysis.statistics import check_alike

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_accuracy(runs: pd.DataFrame) -> Figure:
    """Draw accuracy against sparsity, one line per method.

    Raises:
        UserError: the runs cannot be compared.
    """
    done = finished_runs(runs)
    by = ["recipe", "label", "sign_in", "sparsity"]
    check_alike(done, by)
    done = done.drop_duplicates([*by, "seed"])
    methods = len(done[["label", "sign_in"]].drop_duplicates())
    drawn, (ax,) = subplots(1, COLUMN if methods <= 6 else PAGE, 2.8)
    values = sorted(done["sparsity"].unique())
    for (label, sign_in), group in by_method(done):
        accuracy = 100 * group.groupby("sparsity")["result.accuracy"].agg(["mean", "std"])
        x = [values.index(s) for s in accuracy.index]
        errors, entry = accuracy["std"].fillna(0), legend_entry(label, sign_in)
        ax.errorbar(x, accuracy["mean"], errors, label=entry, capsize=2, **look(label, sign_in))
    ax.set_xticks(range(len(values)), [f"{s:g}" for s in values])
    ax.set(xlabel="sparsity", ylabel="accuracy (%)", xlim=(-0.3, len(values) - 0.7))
    legend_below(drawn, [ax])
    return drawn
