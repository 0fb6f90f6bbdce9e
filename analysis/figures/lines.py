"""Figures of lines: panels side by side with one legend, while there are few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.figures.axes import plot_lines, set_axes, wrapped
from analysis.figures.cells import draw_cells
from analysis.figures.groups import Group
from analysis.figures.panels import BELOW, Panel, groups_of, names_of
from analysis.figures.style import (
    CHARACTER,
    CROSS,
    GREY,
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
)
from analysis.names import with_rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT = 1.4  # of panels in inches


def draw_panels(
    panels: Sequence[Panel],
    size: Size,
    many: Callable[[Sequence[Panel], Size], Figure] = draw_cells,
) -> Figure:
    """Draw panels side by side.

    Args:
        many: draws the panels instead, if there are more lines than a panel can show.
    """
    groups = groups_of(panels)
    if len(groups) > MOST:
        return many(panels, size)
    names = {group: with_rule(name, group[1]) for group, name in names_of(panels).items()}
    colours = choose_looks(label for label, _ in groups)
    looks = {(label, rule): colours[label] | line_style(label, rule) for label, rule in groups}
    named = {group: look | {"label": names[group]} for group, look in looks.items()}
    handles = _handles(panels, named)
    texts = [handle.get_label() for handle in handles]
    ticks = max((len(text) for panel in panels for text in panel.ticks.values()), default=0)
    ends, aside = 0.6 + CHARACTER * ticks, HANDLE + CHARACTER * max(map(len, texts))
    columns = fitting_columns(texts, size) if size.is_narrow else 1
    legend = LINE * (-(-len(texts) // columns) + 1)
    height = _HEIGHT + legend if size.is_narrow else max(_HEIGHT, legend)
    drawn = new_figure(size, ends + height)
    width = (size.width - (0 if size.is_narrow else aside)) / len(panels)
    for ax, panel in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        plot_lines(ax, panel, named)
        set_axes(ax, panel, 0.75 * width)
        ax.set(title=wrapped(panel.title, width), xlabel=panel.xlabel, ylabel=panel.ylabel)
    place: Look = {"loc": "outside lower center" if size.is_narrow else "outside right upper"}
    drawn.legend(handles=handles, ncols=columns, borderaxespad=0.5, **place)
    return drawn


def _handles(panels: Sequence[Panel], looks: Mapping[Group, Look]) -> list[Any]:
    """Return the handles of the legend."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **look) for look in looks.values()]
    if any(panel.means["marked"].any() for panel in panels):
        handles.append(Line2D([], [], color=GREY, label=MISSES, **CROSS))
    if any(panel.below for panel in panels):
        handles.append(Line2D([], [], linestyle="", label=f"{BELOW} below the axis"))
    return handles
