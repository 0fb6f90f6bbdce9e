"""The critical-difference diagram of average ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.alike import comparison_fields
from analysis.figures.style import PAGE, subplots
from analysis.frame import find_column
from analysis.names import legend_entry
from analysis.ranks import Ranks, rank_summary
from analysis.statistics import aggregate
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHARACTER = 0.055  # width in inches
_LINE, _TOP = 0.17, 0.55  # heights in inches: of a method's line, and of what is above the first


def draw_ranks(runs: pd.DataFrame) -> Figure:
    """Draw average ranks over recipes and sparsities; bars join what Nemenyi's test does not part.

    As in Demšar 2006: the best method is on the left. Without enough comparisons for a test there
    are no bars.

    Raises:
        UserError: the methods were not run at two recipes or sparsities, or differ in more than
            their names can say.
    """
    rows, columns = comparison_fields(runs, ("method",), ("sparsity",))
    if len(rows) > 1:
        raise UserError(f"the runs differ in {', '.join(rows[1:])}: choose with --where.")
    numbers = aggregate(runs, rows, columns)
    across = [find_column(runs, name) for name in columns]
    ranks = rank_summary(numbers[~numbers["misses"]], ["label"], across)
    bars = cliques(ranks)
    n = len(ranks.table)
    height = _TOP + _LINE * (-(-n // 2) + len(bars) / 2 + 1)
    drawn, (ax,) = subplots(1, PAGE, height)
    _draw_axis(ax, ranks)
    first = 0.4 + 0.35 * len(bars)
    for i, (_, row) in enumerate(ranks.table.iterrows()):
        left = i < -(-n // 2)
        y = first + 0.7 * (i if left else n - 1 - i)
        end = 1 - 0.02 * n if left else n + 0.02 * n
        name = legend_entry(row["label"], row["sign_in"])
        ax.plot([row["rank"], row["rank"], end], [0, y, y], color="#404040", linewidth=0.8)
        text = f"{name}  {row['rank']:.2f}" if left else f"{row['rank']:.2f}  {name}"
        ax.text(end, y, f" {text} ", ha="right" if left else "left", va="center", fontsize=7)
    for i, (low, high) in enumerate(bars):
        y = 0.25 + 0.35 * i
        ax.plot([low - 0.03, high + 0.03], [y, y], color="#0173b2", linewidth=2.5)
    ax.set_ylim(first + 0.7 * (-(-n // 2)), -1.6)
    names = [legend_entry(*row) for row in ranks.table[["label", "sign_in"]].to_numpy()]
    room = 0.5 + _CHARACTER * (max(map(len, names)) + 6)  # inches on each side of the axis
    unit = max(PAGE - 2 * room, 1.5) / max(n - 1, 1)
    ax.set_xlim(1 - room / unit, n + room / unit)
    return drawn


def cliques(ranks: Ranks) -> list[tuple[float, float]]:
    """Return the first and last rank of each largest group within the critical difference."""
    if np.isnan(ranks.critical_difference):
        return []
    values = ranks.table["rank"].to_numpy()
    found: list[tuple[float, float]] = []
    for low in values:
        high = values[values <= low + ranks.critical_difference].max()
        if high > low and (not found or high > found[-1][1]):
            found.append((float(low), float(high)))
    return found


def _draw_axis(ax: Any, ranks: Ranks) -> None:
    n = len(ranks.table)
    ax.axis("off")
    ax.plot([1, n], [0, 0], color="black", linewidth=1)
    for place in range(1, n + 1, -(-n // 8)):
        ax.plot([place, place], [0, -0.15], color="black", linewidth=1)
        ax.text(place, -0.25, str(place), ha="center", va="bottom", fontsize=7)
    blocks = ranks.table["blocks"].iloc[0]
    title = f"average rank over {blocks} comparisons"
    if not np.isnan(ranks.critical_difference):
        end = 1 + ranks.critical_difference
        ax.plot([1, end], [-1.0, -1.0], color="#0173b2", linewidth=1.5)
        title += f"; critical difference {ranks.critical_difference:.2f}, p = {ranks.p_value:.2g}"
    ax.text((1 + n) / 2, -1.15, title, ha="center", va="bottom", fontsize=8)
