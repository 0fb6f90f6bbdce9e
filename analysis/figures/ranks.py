"""The critical-difference diagram of average ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.alike import comparison_fields
from analysis.figures.dots import DotPanel, draw_dots, rule_series
from analysis.figures.style import COLOURS, DARK, SMALL, Size, new_figure, rule_name
from analysis.frame import find_column
from analysis.mean_ranks import Ranks, rank_summary
from analysis.names import legend_entry
from analysis.statistics import aggregate
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 16  # methods in a diagram; plain and with Sign-In are two
_CHARACTER = 0.055  # width in inches
_LINE, _TOP = 0.17, 0.55  # heights in inches: of a method's line, and of what is above the first


def draw_ranks(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw average ranks over recipes and sparsities; bars show Nemenyi's test.

    As in Demšar 2006: the best method is on the left, and a bar joins methods that the test does
    not distinguish. Without enough comparisons for a test there are no bars. If there is no space
    for the names beside the axis, each method has a row of its own, and a line marks the critical
    difference from the best.

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
    names = [legend_entry(*row) for row in ranks.table[["label", "rule"]].to_numpy()]
    room = 0.5 + _CHARACTER * (max(map(len, names)) + 6)  # inches on each side of the axis
    if len(names) > _MOST or size.width < 2 * room + 1.5:
        return _draw_rows(ranks, size)
    return _draw_diagram(ranks, names, room, size)


def _draw_rows(ranks: Ranks, size: Size) -> Figure:
    table = ranks.table.assign(
        series=ranks.table["rule"].map(rule_name), mean=ranks.table["rank"], std=0.0
    )
    line = {"critical difference from the best": table["rank"].min() + ranks.critical_difference}
    reference = {} if np.isnan(ranks.critical_difference) else line
    title = f"average rank over {table['blocks'].iloc[0]} comparisons"
    order = list(dict.fromkeys(table["label"]))
    limits = (0.5, max([len(table), *reference.values()]) + 0.5)
    panel = DotPanel(table, order, "", title, limits, reference)
    return draw_dots([panel], rule_series(table["rule"]), size)


def _draw_diagram(ranks: Ranks, names: list[str], room: float, size: Size) -> Figure:
    bars, n = cliques(ranks), len(names)
    drawn = new_figure(size, _TOP + _LINE * (-(-n // 2) + len(bars) / 2 + 1))
    ax = drawn.subplots()
    _draw_axis(ax, ranks)
    first = 0.4 + 0.35 * len(bars)
    for i, (name, rank) in enumerate(zip(names, ranks.table["rank"], strict=True)):
        left = i < -(-n // 2)
        y = first + 0.7 * (i if left else n - 1 - i)
        end = 1 - 0.02 * n if left else n + 0.02 * n
        ax.plot([rank, rank, end], [0, y, y], color=DARK, linewidth=0.8)
        text = f"{name}  {rank:.2f}" if left else f"{rank:.2f}  {name}"
        ax.text(end, y, f" {text} ", ha="right" if left else "left", va="center", fontsize=SMALL)
    for i, (low, high) in enumerate(bars):
        y = 0.25 + 0.35 * i
        ax.plot([low - 0.03, high + 0.03], [y, y], color=COLOURS[0], linewidth=2.5)
    ax.set_ylim(first + 0.7 * (-(-n // 2)), -1.6)
    unit = (size.width - 2 * room) / max(n - 1, 1)
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
        ax.text(place, -0.25, str(place), ha="center", va="bottom", fontsize=SMALL)
    blocks = ranks.table["blocks"].iloc[0]
    title = f"average rank over {blocks} comparisons"
    if not np.isnan(ranks.critical_difference):
        end = 1 + ranks.critical_difference
        ax.plot([1, end], [-1.0, -1.0], color=COLOURS[0], linewidth=1.5)
        title += f"; critical difference {ranks.critical_difference:.2f}, p = {ranks.p_value:.2g}"
    ax.text((1 + n) / 2, -1.15, title, ha="center", va="bottom")
