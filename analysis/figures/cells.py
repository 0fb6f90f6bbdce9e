"""Figures of many lines: each method has a cell of its own, and all cells have equal axes.

Behind its lines, a cell shows the range of the sparse methods at the requested sparsities, and the
dense network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analysis.figures.axes import LONGEST_LEVEL, plot_lines, set_axes, wrapped
from analysis.figures.groups import Group
from analysis.figures.panels import BELOW, Panel, groups_of, names_of, rows_of
from analysis.figures.style import (
    CHARACTER,
    CROSS,
    GREY,
    LINE,
    MEDIUM,
    MISSES,
    PAGE,
    RULE_COLOURS,
    SMALL,
    Look,
    Size,
    fitting_columns,
    line_style,
    rule_name,
)
from analysis.names import FROM_SCRATCH, PLAIN, RULES, is_fixed, legend_entry, name_of
from baselines.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# inches
_WIDTHS = (1.1, 0.85, 0.6)  # least width of a cell; narrower ones if the page is full
_LOWEST = 0.4  # least height of axes
_LEFT, _RIGHT, _GAP = 0.47, 0.07, 0.1  # beside the cells, and between them
_HEAD = 0.2  # title of a block
_SHAPE = 0.75  # height of axes, relative to their width
_DENSE_GROUP = ("dense", PLAIN)
_RANGE: Look = {"color": "#e2e2e2", "linewidth": 0, "zorder": 0.5}
_DENSE: Look = {"color": GREY, "linewidth": 0.8, "zorder": 1.5}
_SMALLER: Look = {"markersize": 2.5, "linewidth": 0.9}


@dataclass(frozen=True)
class _Grid:
    """Sizes of a block of cells in inches.

    Attributes:
        methods: what is drawn in each cell.
        titles: of the cells.
        width, height: of the axes of a cell.
        tops: height of the titles of each row.
    """

    methods: Sequence[Sequence[Group]]
    titles: Sequence[str]
    columns: int
    width: float
    height: float
    tops: Sequence[float]

    @property
    def total(self) -> float:
        return sum(self.tops) + len(self.tops) * self.height


def draw_cells(panels: Sequence[Panel], size: Size) -> Figure:
    """Draw a block of cells for each panel, one block below the other.

    Raises:
        UserError: the size has a height, and no cells fit it.
    """
    from matplotlib.figure import Figure

    handles = _handles(panels)
    across = fitting_columns([handle.get_label() for handle in handles], size)
    key = LINE * (-(-len(handles) // across) + 0.7)
    heads = [_HEAD * bool(panel.title) for panel in panels]
    below = [1.4 * LINE + _ticks_height(panel) for panel in panels]
    around = key + sum(heads) + sum(below)
    grid = _fit(panels, size, around)
    y = around + len(panels) * grid.total
    drawn = Figure(figsize=(size.width, y))
    for panel, head, room in zip(panels, heads, below, strict=True):
        _write(drawn, (_LEFT + size.width - _RIGHT) / 2, y - head / 2, panel.title)
        _draw_block(drawn, y - head, panel, grid)
        y -= head + grid.total + room
    _write(drawn, (_LEFT + size.width - _RIGHT) / 2, key + LINE / 2, panels[-1].xlabel)
    drawn.legend(handles=handles, loc="lower center", ncols=across, borderaxespad=0.5)
    return drawn


def _fit(panels: Sequence[Panel], size: Size, around: float) -> _Grid:
    """Return the widest cells with which a figure fits its height, or else a page.

    Args:
        around: height of what is not in the blocks.

    Raises:
        UserError: the size has a height, and no cells fit it.
    """
    room = ((size.height or PAGE) - around) / len(panels)
    for least in _WIDTHS:
        grid = _cells(panels, size, least)
        if grid.total <= room:
            break
    height = (room - sum(grid.tops)) / len(grid.tops)
    if not size.height:
        return replace(grid, height=max(_LOWEST, min(grid.height, height)))
    if height < _LOWEST:
        needed = size.height + (_LOWEST - height) * len(grid.tops) * len(panels)
        raise UserError(
            f"--size: a cell for each of {len(grid.methods)} methods needs a height of "
            f"{needed:.1f} inches at this width. --methods chooses some."
        )
    return replace(grid, height=height)


def _cells(panels: Sequence[Panel], size: Size, least: float) -> _Grid:
    """Return the cells of a block, of at least a width, and one that their names fit."""
    names = names_of(panels)
    methods = rows_of(names)
    room = size.width - _LEFT - _RIGHT + _GAP
    longest = max(len(word) for name in names.values() for word in name.split())
    least = max(least, min(_WIDTHS[0], CHARACTER * longest)) + _GAP
    n_rows = -(-len(methods) // int(room / least))
    columns = -(-len(methods) // n_rows)
    titles = [wrapped(names[members[0]], room / columns) for members in methods]
    rows = [titles[i : i + columns] for i in range(0, len(titles), columns)]
    tops = [LINE * (1.2 + max(title.count("\n") for title in row)) for row in rows]
    width = room / columns - _GAP
    label = 1.2 * CHARACTER * max(len(panel.ylabel) for panel in panels)
    height = max(_SHAPE * width, (label - sum(tops)) / n_rows)
    return _Grid(methods, titles, columns, width, height, tops)


def _ticks_height(panel: Panel) -> float:
    """Return the height of the labels of the x axis."""
    longest = max(map(len, panel.ticks.values()), default=0)
    return CHARACTER * longest if longest > LONGEST_LEVEL else LINE


def _draw_block(drawn: Figure, top: float, panel: Panel, grid: _Grid) -> None:
    """Draw the cells of a panel below the height `top` in inches."""
    width, height = drawn.get_size_inches()
    _write(drawn, 0.1, top - grid.total / 2, panel.ylabel, rotation=90)
    others = panel.means["label"].isin({*panel.below, "dense"}) | panel.means["marked"]
    visible = panel.means[~others]  # marked values are at sparsities of their own
    spread = visible.groupby("x")["mean"].agg(["min", "max"])
    y = top
    for i, (members, title) in enumerate(zip(grid.methods, grid.titles, strict=True)):
        row, column = divmod(i, grid.columns)
        y -= (grid.tops[row] + grid.height) * (column == 0)
        x = _LEFT + column * (grid.width + _GAP)
        ax: Any = drawn.add_axes((x / width, y / height, grid.width / width, grid.height / height))
        ax.fill_between(spread.index, spread["min"], spread["max"], **_RANGE)
        if _DENSE_GROUP in panel.lines and _DENSE_GROUP not in members:
            dense = panel.lines[_DENSE_GROUP]
            ax.plot(dense["x"], dense["mean"], **_DENSE)
        named = {group: _look(group) | {"label": legend_entry(*group)} for group in members}
        plot_lines(ax, panel, named)
        set_axes(ax, panel, grid.width)
        ax.set_title(title, fontsize=SMALL, pad=2)
        ax.tick_params(labelbottom=i + grid.columns >= len(grid.methods), labelleft=column == 0)
        ax.tick_params(which="minor", length=0)


def _write(drawn: Figure, x: float, y: float, text: str, **how: Any) -> None:
    """Write a text around a place in inches."""
    width, height = drawn.get_size_inches()
    drawn.text(x / width, y / height, text, ha="center", va="center", fontsize=MEDIUM, **how)


def _look(group: Group) -> Look:
    label, rule = group
    return RULE_COLOURS[rule] | line_style(label, rule) | _SMALLER


def _handles(panels: Sequence[Panel]) -> list[Any]:
    """Return the handles of the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    groups = groups_of(panels)
    own = {rule for _, rule in groups}
    handles: list[Any] = [
        Line2D([], [], label=rule_name(rule), **_look(("", rule))) for rule in RULES if rule in own
    ]
    if any(is_fixed(label) for label, _ in groups):
        look = line_style("fixed (", PLAIN)
        handles.append(Line2D([], [], label=FROM_SCRATCH, color=GREY, **look))
    if _DENSE_GROUP in groups:
        handles.append(Line2D([], [], label=name_of("dense"), **_DENSE))
    handles.append(Patch(label="range of sparse methods", **_RANGE))
    if any(panel.means["marked"].any() for panel in panels):
        handles.append(Line2D([], [], color=GREY, label=MISSES, **CROSS))
    if any(panel.below for panel in panels):
        handles.append(Line2D([], [], linestyle="", label=f"{BELOW} below the axis"))
    return handles
