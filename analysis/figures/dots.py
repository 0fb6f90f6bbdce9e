"""Figures of dots: one row per method, dots for means and bars for the deviation over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.figures.style import (
    CHARACTER,
    CROSS,
    DARK,
    LINE,
    MISSES,
    RULE_COLOURS,
    RULE_LOOKS,
    SMALL,
    Look,
    Size,
    fitting_columns,
    new_figure,
    rule_name,
)
from analysis.names import RULES, short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PITCH, _DOT = 0.17, 0.06  # heights in inches: of a row at least, and of each of its dots
_NARROWEST = 1.0  # width of a panel without the names of its rows
_REFERENCE: Look = {"color": DARK, "linestyle": (0, (4, 2)), "linewidth": 0.9}


@dataclass(frozen=True)
class Series:
    """The look of the dots of one name.

    Attributes:
        shift: distance from the middle of the row.
        face: colour of the inside; None: that of the edge.
    """

    name: str
    color: str
    marker: str
    shift: float = 0.0
    face: str | None = None

    @property
    def style(self) -> Look:
        look = {"color": self.color, "marker": self.marker}
        return {**look, "markerfacecolor": self.face or self.color}


def rule_series(rules: Iterable[str]) -> list[Series]:
    """Return a series for each of the rules, side by side in a row."""
    present = [rule for rule in RULES if rule in set(rules)]
    shifts = np.linspace(-0.16, 0.16, len(present)) if len(present) > 1 else [0.0]
    return [
        Series(
            rule_name(rule),
            **RULE_COLOURS[rule],
            shift=shift,
            face=RULE_LOOKS[rule].get("markerfacecolor"),
        )
        for rule, shift in zip(present, shifts, strict=True)
    ]


@dataclass(frozen=True)
class DotPanel:
    """Means and deviations by method.

    Attributes:
        table: columns label, series, mean, std, and optionally marked, for dots with a cross.
        order: labels from the top to the bottom.
        limits: ends of the x axis; values outside are written at the edge. None: those that show
            all values of all panels.
        reference: position of a vertical line, by its name in the legend.
    """

    table: pd.DataFrame
    order: Sequence[str]
    title: str
    xlabel: str
    limits: tuple[float, float] | None = None
    reference: Mapping[str, float] = field(default_factory=dict)


def draw_dots(panels: Sequence[DotPanel], series: Sequence[Series], size: Size) -> Figure:
    """Draw panels side by side, or below each other where they do not fit."""
    names = short_names(dict.fromkeys(label for panel in panels for label in panel.order))
    aside = CHARACTER * max(map(len, names.values()))
    are_alike = all(panel.order == panels[0].order for panel in panels)
    texts = (text for panel in panels for text in (panel.title, panel.xlabel))
    narrowest = max(_NARROWEST, CHARACTER * (1 + max(map(len, texts))))
    room = (size.width - aside) / narrowest if are_alike else size.width / (aside + narrowest)
    columns = min(len(panels), max(1, int(room)))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    pitch = max(_PITCH, _DOT * len({look.shift for look in series}))
    heights = [pitch * max(2, *(len(panel.order) for panel in row)) for row in rows]
    handles = _key(panels, series)
    across = fitting_columns([handle.get_label() for handle in handles], size)
    drawn = new_figure(
        size, sum(heights) + 0.5 * len(rows) + LINE * -(-len(handles) // across) + 0.1
    )
    grid = drawn.add_gridspec(len(rows), columns, height_ratios=heights)
    common = padded_limits(pd.concat([panel.table for panel in panels]))
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            ax = drawn.add_subplot(grid[i, j])
            ax.set_xlim(panel.limits or common)
            _draw(ax, panel, series, names)
            ax.tick_params(labelleft=j == 0 or not are_alike)
    drawn.legend(handles=handles, loc="outside lower center", ncols=across, borderaxespad=0.5)
    return drawn


def padded_limits(table: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of an x axis that shows all means and deviations of a table."""
    low, high = (table["mean"] - table["std"]).min(), (table["mean"] + table["std"]).max()
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _draw(ax: Any, panel: DotPanel, series: Sequence[Series], names: Mapping[str, str]) -> None:
    low, high = ax.get_xlim()
    legend = {look.name: i for i, look in enumerate(series)}
    table = panel.table.sort_values("series", key=lambda names: names.map(legend))
    place = {label: y for y, label in enumerate(panel.order)}
    inside = table[table["mean"].between(low, high)]
    for look in series:
        rows = inside[inside["series"] == look.name]
        if not len(rows):
            continue
        ax.errorbar(
            rows["mean"],
            rows["label"].map(place) + look.shift,
            xerr=rows["std"],
            linestyle="",
            elinewidth=0.8,
            label=look.name,
            **look.style,
        )
        crosses = rows[rows["marked"]] if "marked" in rows else rows[:0]
        if len(crosses):
            places = crosses["label"].map(place) + look.shift
            ax.plot(crosses["mean"], places, color=look.color, **CROSS)
    for x in panel.reference.values():
        ax.axvline(x, zorder=0.5, **_REFERENCE)
    _write_outside(ax, table[table["mean"] < low], place, 0.01, "◂ {}")
    _write_outside(ax, table[table["mean"] > high], place, 0.99, "{} ▸")
    ax.set_yticks(range(len(panel.order)), [names[label] for label in panel.order])
    ax.set(ylim=(len(panel.order) - 0.4, -0.6), title=panel.title, xlabel=panel.xlabel)
    ax.locator_params(axis="x", nbins=4)


def _write_outside(
    ax: Any, table: pd.DataFrame, place: Mapping[str, int], x: float, form: str
) -> None:
    """Write the means of each row at an edge of the axes."""
    for label, rows in table.groupby("label"):
        ax.text(
            x,
            place[str(label)],
            form.format(" / ".join(f"{mean:.1f}" for mean in rows["mean"])),
            transform=ax.get_yaxis_transform(),
            ha="left" if x < 0.5 else "right",
            va="center",
            fontsize=SMALL,
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
    has_crosses = any(panel.table.get("marked", pd.Series(dtype=bool)).any() for panel in panels)
    crosses = [Line2D([], [], color=DARK, label=MISSES, **CROSS)] * has_crosses
    return [*dots, *(Line2D([], [], label=name, **_REFERENCE) for name in references), *crosses]
