"""Figures of lines: panels side by side, one row of them for each group of methods.

The legend of a group is beside its row; in narrow figures, below it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.figures.groups import by_method
from analysis.figures.panels import Panel, group_methods
from analysis.figures.style import (
    CHARACTER,
    CROSS,
    HANDLE,
    LINE,
    MISSES,
    MOST,
    Look,
    Size,
    choose_looks,
    fitting_columns,
    line_style,
    new_figure,
    rule_name,
)
from analysis.names import PLAIN, RULES, short_names, with_rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHORTEST_TITLE = 18  # characters in a line of a legend's title, at least
_GREY = "#606060"
_BELOW = "↓"


def draw_panels(panels: Sequence[Panel], size: Size) -> Figure:
    """Draw panels side by side, one row for each group of methods."""
    labels = dict.fromkeys(label for panel in panels for label in panel.values["label"])
    names, below = short_names(labels), {label for panel in panels for label in panel.below}
    entries = {label: f"{names[label]} {_BELOW * (label in below)}".strip() for label in labels}
    most = max(_SHORTEST_TITLE, *map(len, entries.values()))
    if size.is_narrow:
        most = int(size.width / CHARACTER)
    groups = {textwrap.fill(t, most): group for t, group in group_methods(labels).items()}
    drawn, axes, legends = _layout(panels, groups, entries, size)
    for i, (title, members) in enumerate(groups.items()):
        looks = choose_looks(members)
        for ax, panel in zip(axes[i], panels, strict=True):
            _draw_lines(ax, panel, looks, names)
            _label_axes(ax, panel, i == 0, i == len(groups) - 1)
        _add_legend(legends[i], title, looks, entries, size)
    rules = {rule for panel in panels for rule in panel.values["rule"]}
    has_crosses = any(panel.means["marked"].any() for panel in panels)
    _add_key(drawn, rules, has_crosses, bool(below), size)
    return drawn


def _layout(
    panels: Sequence[Panel],
    groups: Mapping[str, Sequence[str]],
    entries: Mapping[str, str],
    size: Size,
) -> tuple[Figure, list[list[Any]], list[Any]]:
    """Return a figure, the axes of each row, and the axes for the legend of each row."""
    titles = (CHARACTER * len(line) for title in groups for line in title.split("\n"))
    widest = max(HANDLE + CHARACTER * max(map(len, entries.values())), *titles)
    names = max((len(text) for panel in panels for text in panel.ticks.values()), default=0)
    ends = 0.7 + CHARACTER * names  # title, labels of the x axis, key
    if size.is_narrow:
        columns = _columns(entries, size)
        legends = [LINE * (-(-len(g) // columns) + _lines(title)) for title, g in groups.items()]
        heights = [height for legend in legends for height in (1.0, legend)]
        drawn = new_figure(size, ends + sum(heights) + 0.2 * len(groups))
        grid = drawn.add_gridspec(len(heights), len(panels), height_ratios=heights)
        axes = _row_axes(drawn, grid, range(0, len(heights), 2), panels)
        below = [drawn.add_subplot(grid[2 * i + 1, :]) for i in range(len(groups))]
        return drawn, axes, _hidden(below)
    heights = [max(1.25, LINE * (len(g) + 1 + _lines(title))) for title, g in groups.items()]
    drawn = new_figure(size, ends + sum(heights) + 0.1 * len(groups))
    widths = [(size.width - widest) / len(panels)] * len(panels) + [widest]
    grid = drawn.add_gridspec(len(heights), len(widths), height_ratios=heights, width_ratios=widths)
    axes = _row_axes(drawn, grid, range(len(groups)), panels)
    aside = [drawn.add_subplot(grid[i, -1]) for i in range(len(groups))]
    return drawn, axes, _hidden(aside)


def _lines(title: str) -> int:
    return title.count("\n") + 1 if title else 0


def _row_axes(drawn: Figure, grid: Any, rows: range, panels: Sequence[Panel]) -> list[list[Any]]:
    return [[drawn.add_subplot(grid[i, j]) for j in range(len(panels))] for i in rows]


def _hidden(axes: list[Any]) -> list[Any]:
    for ax in axes:
        ax.set_axis_off()
    return axes


def _columns(entries: Mapping[str, str], size: Size) -> int:
    """Return how many columns a legend below its row has."""
    return max(1, int(size.width / (HANDLE + CHARACTER * max(map(len, entries.values())))))


def _draw_lines(ax: Any, panel: Panel, looks: Mapping[str, Look], names: Mapping[str, str]) -> None:
    table = panel.means[panel.means["label"].isin(looks)]
    has_bands = len(table[["label", "rule"]].drop_duplicates()) <= MOST
    for (label, rule), line in by_method(table):
        style = looks[label] | line_style(label, rule)
        name = with_rule(names[label], rule)
        ax.plot(line["x"], line["mean"], label=name, markevery=max(1, len(line) // 8), **style)
        crosses = line[line["marked"]]
        if len(crosses):
            ax.plot(crosses["x"], crosses["mean"], color=style["color"], **CROSS)
        if has_bands:
            ax.fill_between(
                line["x"], line["low"], line["high"], color=style["color"], alpha=0.12, linewidth=0
            )
    ax.set_ylim(panel.limits)
    if panel.is_logarithmic:
        from matplotlib.ticker import NullFormatter, StrMethodFormatter

        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # exponents are too small
        ax.yaxis.set_minor_formatter(NullFormatter())


def _label_axes(ax: Any, panel: Panel, is_first: bool, is_last: bool) -> None:
    ax.set(ylabel=panel.ylabel, title=panel.title if is_first else "")
    ax.set_xlabel(panel.xlabel if is_last else "")
    if panel.ticks:
        low, high = panel.values["x"].min(), panel.values["x"].max()
        margin = 0.05 * (high - low) or 0.5
        ax.set_xlim(low - margin, high + margin)  # equal in all rows
        _label_ticks(ax, panel.ticks)
    else:
        # rows may end at different epochs: some methods train repeatedly
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.tick_params(labelbottom=is_last or not panel.ticks)


def _label_ticks(ax: Any, ticks: Mapping[float, str]) -> None:
    """Label the x axis, without the labels that would have no room."""
    longest = max(map(len, ticks.values()))
    upright = longest > 5
    low, high = ax.get_xlim()
    width = 0.75 * ax.figure.get_figwidth() / ax.get_subplotspec().get_gridspec().ncols
    least = (LINE if upright else CHARACTER * (longest + 1)) * (high - low) / width
    places: list[float] = []
    for x in sorted(ticks):
        if not places or x - places[-1] >= least:
            places.append(x)
    ax.set_xticks(places, [ticks[x] for x in places], rotation=90 if upright else 0)


def _add_legend(
    ax: Any, title: str, looks: Mapping[str, Look], entries: Mapping[str, str], size: Size
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=entries[label], **look | line_style(label, PLAIN))
        for label, look in looks.items()
    ]
    columns = _columns(entries, size) if size.is_narrow else 1
    place = "upper center" if size.is_narrow else "center left"
    ax.legend(handles=handles, title=title or None, loc=place, ncols=columns, alignment="left")


def _add_key(
    drawn: Figure, rules: set[str], has_crosses: bool, has_lower: bool, size: Size
) -> None:
    """Say below the figure which lines are plain, with Sign-In or HAM, and what marks mean."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_GREY, marker="o", label=rule_name(rule), **line_style("", rule))
        for rule in RULES
        if rule in rules and rules != {PLAIN}
    ]
    if has_crosses:
        handles.append(Line2D([], [], color=_GREY, label=MISSES, **CROSS))
    if has_lower:
        handles.append(Line2D([], [], linestyle="", label=f"{_BELOW} below the axis"))
    if handles:
        columns = fitting_columns([str(handle.get_label()) for handle in handles], size)
        drawn.legend(handles=handles, loc="outside lower center", ncols=columns, borderaxespad=0.5)
