"""Figures of lines: panels side by side, one row of them for each group of methods.

The legend of a group is beside its row; in narrow figures, below it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.figures.groups import by_method
from analysis.figures.panels import Panel, group_methods
from analysis.figures.style import CHARACTER, LINE, Look, Size, choose_looks, line_style, new_figure
from analysis.names import short_names, with_sign_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HANDLE = 0.45  # width in inches of a line in a legend, with the space around it
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
    _add_key(drawn, {bool(s) for panel in panels for s in panel.values["sign_in"]}, bool(below))
    return drawn


def _layout(
    panels: Sequence[Panel],
    groups: Mapping[str, Sequence[str]],
    entries: Mapping[str, str],
    size: Size,
) -> tuple[Figure, list[list[Any]], list[Any]]:
    """Return a figure, the axes of each row, and the axes for the legend of each row."""
    titles = (CHARACTER * len(line) for title in groups for line in title.split("\n"))
    widest = max(_HANDLE + CHARACTER * max(map(len, entries.values())), *titles)
    names = max((len(name) for panel in panels for name in panel.names), default=0)
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
    return max(1, int(size.width / (_HANDLE + CHARACTER * max(map(len, entries.values())))))


def _draw_lines(ax: Any, panel: Panel, looks: Mapping[str, Look], names: Mapping[str, str]) -> None:
    table = panel.means
    for (label, sign_in), line in by_method(table[table["label"].isin(looks)]):
        style = looks[label] | line_style(label, sign_in)
        name = with_sign_in(names[label], sign_in)
        ax.plot(line["x"], line["mean"], label=name, markevery=max(1, len(line) // 8), **style)
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
    if panel.names:
        spec = ax.get_subplotspec().get_gridspec()
        width = ax.figure.get_figwidth() / spec.ncols
        step = int(-(-len(panel.names) * LINE // (0.8 * width))) or 1
        places = range(0, len(panel.names), step)
        upright = max(map(len, panel.names)) > 5
        ax.set_xticks(places, [panel.names[i] for i in places], rotation=90 if upright else 0)
    else:
        # rows may end at different epochs: some methods train repeatedly
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.tick_params(labelbottom=is_last or not panel.names)


def _add_legend(
    ax: Any, title: str, looks: Mapping[str, Look], entries: Mapping[str, str], size: Size
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=entries[label], **look | line_style(label, False))
        for label, look in looks.items()
    ]
    columns = _columns(entries, size) if size.is_narrow else 1
    place = "upper center" if size.is_narrow else "center left"
    ax.legend(handles=handles, title=title or None, loc=place, ncols=columns, alignment="left")


def _add_key(drawn: Figure, kinds: set[bool], has_lower: bool) -> None:
    """Say below the figure which lines are plain, with Sign-In, or below the axis."""
    from matplotlib.lines import Line2D

    texts = {False: "plain", True: "with Sign-In"}
    handles = [
        Line2D([], [], color=_GREY, marker="o", label=texts[kind], **line_style("", kind))
        for kind in sorted(kinds)
        if True in kinds
    ]
    if has_lower:
        handles.append(Line2D([], [], linestyle="", label=f"{_BELOW} below the axis"))
    if handles:
        drawn.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), borderaxespad=0.5
        )
