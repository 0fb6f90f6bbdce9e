"""Figures over epochs: sign flips and sharpness (Figure 5), loss and accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.figures.groups import by_method, of_one_network
from analysis.figures.style import PAGE, legend_below, look, subplots
from analysis.folder import EPOCHS, SHARPNESS
from analysis.frame import load_rows
from analysis.names import legend_entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_flips_and_sharpness(runs: pd.DataFrame) -> Figure:
    """Draw (a) sign flips since initialisation, (b) the largest Hessian eigenvalue.

    Raises:
        UserError: the runs cannot be compared.
    """
    drawn, axes = subplots(2, PAGE, 2.3)
    _lines(axes[0], runs, EPOCHS, "flips", 100)
    axes[0].set(title="(a) sign flips since initialisation", ylabel="flipped (%)")
    if _lines(axes[1], runs, SHARPNESS, "sharpness", 1):
        axes[1].set(title="(b) sharpness", ylabel="largest Hessian eigenvalue", yscale="log")
    else:
        axes[1].set_axis_off()
        hint = "sharpness not measured yet:\nsignbench sharpness RUN"
        axes[1].text(0.5, 0.5, hint, ha="center", va="center", transform=axes[1].transAxes)
    legend_below(drawn, axes)
    return drawn


def draw_curves(runs: pd.DataFrame) -> Figure:
    """Draw training loss and test accuracy.

    Raises:
        UserError: the runs cannot be compared.
    """
    drawn, axes = subplots(2, PAGE, 2.4)
    _lines(axes[0], runs, EPOCHS, "train_loss", 1)
    axes[0].set(title="training loss", ylabel="cross entropy")
    _lines(axes[1], runs, EPOCHS, "test_accuracy", 100)
    axes[1].set(title="test accuracy", ylabel="accuracy (%)")
    legend_below(drawn, axes)
    return drawn


def _lines(ax: Any, runs: pd.DataFrame, file: str, column: str, factor: float) -> bool:
    """Draw one line per method, with a band over seeds. Return whether any run has the file."""
    drawn = False
    for (label, sign_in), group in by_method(of_one_network(runs)):
        has = [(folder / file).exists() for folder in group["folder"]]
        tables = [load_rows(f, file) for f in group[has].drop_duplicates("seed")["folder"]]
        values = [factor * t.set_index("epoch")[column] for t in tables if column in t]
        if not values:
            continue
        drawn = True
        wide = pd.concat(values, axis=1)
        x, mean, std = wide.index.to_numpy(), wide.mean(axis=1), wide.std(axis=1).fillna(0)
        if file == EPOCHS:
            x = x + 1  # rows of epochs.csv are measured after the epoch
        line = look(label, sign_in) | {"markevery": max(1, len(x) // 8)}
        ax.plot(x, mean, label=legend_entry(label, sign_in), **line)
        ax.fill_between(x, mean - std, mean + std, color=line["color"], alpha=0.15, linewidth=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="epoch")
    return drawn
