"""Figures of dots: one row per method, dots for means and bars for the deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.figures.groups import lowest_typical
from analysis.figures.style import CHARACTER, LINE, Look, Size, new_figure
from analysis.names import short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PITCH = 0.17  # height of a row in inches
_NARROWEST = 1.0  # width of a panel without the names of its rows
_REFERENCE: Look = {"color": "#404040", "linestyle": (0, (4, 2)), "linewidth": 0.9}
_HANDLE = 0.4  # width of a dot in the legend, with the space around it


@dataclass(frozen=True)
class Series:
    """The look of the dots of one name; `shift` is their distance from the middle of the row."""

    name: str
    color: str
    marker: str
    shift: float = 0.0
    is_hollow: bool = False

    @property
    def style(self) -> Look:
        inside = "white" if self.is_hollow else self.color
        return {"color": self.color, "marker": self.marker, "markerfacecolor": inside}


@dataclass(frozen=True)
class DotPanel:
    """Means and deviations by method.

    Attributes:
        table: columns label, series, mean, std.
        order: labels from the top to the bottom.
        zoom: whether values far below the others are written at the edge instead of drawn.
        reference: position of a vertical line, by its name in the legend.
    """

    table: pd.DataFrame
    order: Sequence[str]
    title: str
    xlabel: str
    zoom: bool = False
    reference: Mapping[str, float] = field(default_factory=dict)


def draw_dots(panels: Sequence[DotPanel], series: Sequence[Series], size: Size) -> Figure:
    """Draw panels side by side, or below each other where they do not fit."""
    names = short_names(dict.fromkeys(label for panel in panels for label in panel.order))
    aside = CHARACTER * max(map(len, names.values()))
    are_alike = all(panel.order == panels[0].order for panel in panels)
    narrowest = max(_NARROWEST, CHARACTER * (1 + max(len(panel.title) for panel in panels)))
    room = (size.width - aside) / narrowest if are_alike else size.width / (aside + narrowest)
    columns = min(len(panels), max(1, int(room)))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [_PITCH * max(len(panel.order) for panel in row) for row in rows]
    handles = _key(panels, series)
    widths = [_HANDLE + CHARACTER * len(handle.get_label()) for handle in handles]
    in_a_row = sum(widths) <= size.width
    across = len(handles) if in_a_row else max(1, int(size.width / max(widths)))
    drawn = new_figure(
        size, sum(heights) + 0.5 * len(rows) + LINE * -(-len(handles) // across) + 0.1
    )
    grid = drawn.add_gridspec(len(rows), columns, height_ratios=heights)
    limits = None if any(panel.zoom for panel in panels) else _common_limits(panels)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            ax = drawn.add_subplot(grid[i, j])
            _draw(ax, panel, series, names)
            ax.tick_params(labelleft=j == 0 or not are_alike)
            ax.set_xlim(limits)
    drawn.legend(handles=handles, loc="outside lower center", ncols=across, borderaxespad=0.5)
    return drawn


def _common_limits(panels: Sequence[DotPanel]) -> tuple[float, float]:
    """Return the ends of an x axis that shows all values and bars of the panels."""
    table = pd.concat([panel.table for panel in panels])
    low, high = (table["mean"] - table["std"]).min(), (table["mean"] + table["std"]).max()
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _draw(ax: Any, panel: DotPanel, series: Sequence[Series], names: Mapping[str, str]) -> None:
    typical = lowest_typical(panel.table["mean"]) if panel.zoom else panel.table["mean"].min()
    place = {label: y for y, label in enumerate(panel.order)}
    for look in series:
        rows = panel.table[panel.table["series"] == look.name]
        rows = rows[rows["mean"] >= typical]
        ax.errorbar(
            rows["mean"],
            rows["label"].map(place) + look.shift,
            xerr=rows["std"],
            linestyle="",
            elinewidth=0.8,
            label=look.name,
            **look.style,
        )
    for x in panel.reference.values():
        ax.axvline(x, zorder=0.5, **_REFERENCE)
    ax.set_yticks(range(len(panel.order)), [names[label] for label in panel.order])
    ax.set(ylim=(len(panel.order) - 0.4, -0.6), title=panel.title, xlabel=panel.xlabel)
    ax.locator_params(axis="x", nbins=4)
    far = panel.table[panel.table["mean"] < typical]
    for label, rows in far.groupby("label"):
        values = " / ".join(f"{mean:.1f}" for mean in rows["mean"])
        ax.text(
            0.01, place[str(label)], f"◂ {values}", transform=ax.get_yaxis_transform(), va="center"
        )


def _key(panels: Sequence[DotPanel], series: Sequence[Series]) -> list[Any]:
    """Return the handles of the legend."""
    from matplotlib.lines import Line2D

    shown = {name for panel in panels for name in panel.table["series"]}
    dots = [
        Line2D([], [], linestyle="", label=look.name, **look.style)
        for look in series
        if look.name in shown
    ]
    references = dict.fromkeys(name for panel in panels for name in panel.reference)
    return [*dots, *(Line2D([], [], label=name, **_REFERENCE) for name in references)]
