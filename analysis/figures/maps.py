"""Heat maps: one row per method, one column per layer, for more methods than lines can show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.figures.axes import label_ticks, wrapped
from analysis.figures.groups import Group
from analysis.figures.panels import Panel, groups_of, names_of, rows_of
from analysis.figures.style import CHARACTER, LINE, Look, Size, new_figure
from analysis.names import with_rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = "viridis"  # its lightness rises: the order is visible in grey, too
_GAP = 0.25  # between methods, relative to the height of a row
_BAR = 0.08  # height of the bar of colours in inches


def draw_maps(panels: Sequence[Panel], size: Size) -> Figure:
    """Draw a heat map for each panel, side by side, with equal colours."""
    methods, names = rows_of(groups_of(panels)), _row_names(panels)
    n_rows = sum(map(len, methods)) + _GAP * (len(methods) - 1)
    width = (size.width - CHARACTER * max(map(len, names.values()))) / len(panels)
    ticks = CHARACTER * max(len(text) for panel in panels for text in panel.ticks.values())
    drawn = new_figure(size, LINE * n_rows + ticks + 1.0)
    axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    means = [panel.means["mean"] for panel in panels]
    limits = min(part.min() for part in means), max(part.max() for part in means)
    edges, middles = _places(methods)
    for ax, panel in zip(axes, panels, strict=True):
        table = _table(panel, methods)
        columns = np.arange(table.shape[1] + 1) - 0.5
        mesh = ax.pcolormesh(columns, edges, table, cmap=_COLOURS, vmin=limits[0], vmax=limits[1])
        mesh.set_rasterized(True)  # else viewers draw lines between the cells
        label_ticks(ax, panel.ticks, 0.9 * width)
        ax.set(title=wrapped(panel.title, width), xlabel=panel.xlabel, ylim=(edges[-1], 0.0))
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.tick_params(axis="y", length=0, pad=2)
    axes[0].set_yticks(list(middles.values()), [names[group] for group in middles])
    height = LINE * n_rows
    look: Look = {"location": "bottom", "fraction": _BAR / height, "pad": 0.1 / height}
    bar = drawn.colorbar(mesh, ax=list(axes), aspect=size.width / _BAR, **look)
    bar.outline.set_visible(False)
    bar.set_label(panels[0].ylabel)
    return drawn


def _row_names(panels: Sequence[Panel]) -> dict[Group, str]:
    """Return the name of a method in its first row, and what is added to it in the others."""
    names = names_of(panels)
    shown = set()
    rows = {}
    for label, rule in names:
        rows[label, rule] = with_rule(names[label, rule] if label not in shown else "", rule)
        shown.add(label)
    return {group: text.strip() for group, text in rows.items()}


def _places(methods: Sequence[Sequence[Group]]) -> tuple[list[float], dict[Group, float]]:
    """Return the edges of all rows and of the gaps between methods, and the middles of rows."""
    edges, middles = [0.0], dict[Group, float]()
    for members in methods:
        if middles:
            edges.append(edges[-1] + _GAP)
        for group in members:
            middles[group] = edges[-1] + 0.5
            edges.append(edges[-1] + 1.0)
    return edges, middles


def _table(panel: Panel, methods: Sequence[Sequence[Group]]) -> Any:
    """Return the values by row and x; NaN where there are none, and between methods."""
    rows: list[Any] = []
    xs = sorted(panel.ticks)
    for members in methods:
        rows += [np.full(len(xs), np.nan)] if rows else []
        for group in members:
            line = panel.lines.get(group)
            values = line.set_index("x")["mean"].reindex(xs) if line is not None else None
            rows.append(np.full(len(xs), np.nan) if values is None else values.to_numpy())
    return np.array(rows)
