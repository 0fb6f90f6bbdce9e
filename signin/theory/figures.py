"""Figures of success rates: Figure 2 from the measured Table 8, and the sweeps beyond Table 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from signin.theory.experiment import CASES
from signin.theory.style import COLUMN, PAGE, colours, figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "Sparse": "sparse, $d = 1$",
    "Overparam": "dense, $d = 5$",
    "Sign-In": "Sign-In, $d = 1$",
    "Overparam + Sign-In": "Sign-In, $d = 5$",
}


@styled
def figure2(table: pd.DataFrame) -> Figure:
    """Draw the four quadrants of initial signs with the measured success rates of all methods.

    Args:
        table: from `tables.table8`.
    """
    drawn, (axes,) = figure(1, 1, COLUMN, 2.6)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(r"$w_1 < 0$" + " " * 30 + r"$w_1 > 0$")
    axes.set_ylabel(r"$a < 0$" + " " * 22 + r"$a > 0$")
    own = table[table["setting"] == "table"]
    for a, w in CASES:
        cells = own[(own["a"] == a) & (own["w"] == w)]
        _quadrant(axes, a, w, dict(zip(cells["method"], cells["success"], strict=True)))
    return drawn


def _quadrant(axes: Axes, a: int, w: int, success: dict[str, float]) -> None:
    """Draw one bar per method: the fraction of runs that learn."""
    left = 0.06 if w > 0 else -0.94
    for i, (method, share) in enumerate(success.items()):
        y = (0.86 if a > 0 else -0.14) - 0.22 * i
        colour = colours()[i]
        axes.barh(y - 0.06, 0.88, 0.05, left, color="0.9")
        axes.barh(y - 0.06, 0.88 * share, 0.05, left, color=colour)
        weight = "bold" if share >= 0.5 else "normal"
        ink = "black" if share >= 0.5 else "0.45"
        axes.text(left, y, NAMES[method], fontsize=7.5, va="bottom", weight=weight, color=ink)
        axes.text(left + 0.88, y, f"{share:.0%}", fontsize=7.5, va="bottom", ha="right", color=ink)


LABELS = {
    "samples": "samples $n$",
    "scale": "initial scale",
    "beta": r"inner scaling $\beta$",
    "width": "inputs $d$",
}
DEFAULTS = {"samples": 1000.0, "scale": 1.0, "beta": 1.0, "width": 5.0}


@styled
def figure_sweeps(table: pd.DataFrame) -> Figure:
    """Draw the success rate against n, initial scale, β and d, for a < 0.

    Args:
        table: from `sweeps.sweep`.
    """
    drawn, panels = figure(1, 4, PAGE, 2.1)
    for axes, (varied, cells) in zip(panels, table.groupby("varied", sort=False), strict=True):
        _lines(axes, cells, str(varied))
        axes.axvline(_position(cells, DEFAULTS[str(varied)]), color="0.8", linewidth=3, zorder=0)
    for axes in panels[1:]:
        axes.set_yticklabels([])
    panels[0].set_ylabel("runs that learn, %")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return drawn


@styled
def figure_failure(table: pd.DataFrame) -> Figure:
    """Draw the success rate against d for a teacher random in two inputs (Appendix E)."""
    drawn, (axes,) = figure(1, 1, COLUMN, 2.0)
    _lines(axes, table, "width")
    axes.set(ylabel="runs that learn, %", xlabel="inputs $d$ of the student")
    axes.legend(frameon=False, loc="center right", handlelength=1.5)
    return drawn


def _lines(axes: Axes, table: pd.DataFrame, varied: str) -> None:
    """Draw one line per method over equally spaced values."""
    values = sorted(table["value"].unique())
    for i, (method, cells) in enumerate(table.groupby("method", sort=False)):
        x = [values.index(value) for value in cells["value"]]
        axes.plot(
            x, 100 * cells["success"], "os"[i] + "-", color=colours()[i], markersize=3.5,
            linewidth=1.2, label="gradient descent" if method == "plain" else method,
            clip_on=False,
        )  # fmt: skip
    axes.set_xticks(range(len(values)), ["∞" if v == float("inf") else f"{v:g}" for v in values])
    axes.set(ylim=(0, 100), xlabel=LABELS[varied])
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.grid(axis="y", color="0.9")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _position(cells: pd.DataFrame, value: float) -> int:
    return sorted(cells["value"].unique()).index(value)
