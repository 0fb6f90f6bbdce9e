"""Lines in axes: in one panel with all lines, or in the cell of one method."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from analysis.figures.groups import Group
from analysis.figures.panels import Panel
from analysis.figures.style import CHARACTER, CROSS, LINE, Look

_FEWEST, _USUAL = 2, 8  # markers of a line: at least, and without other lines
LONGEST_LEVEL = 5  # characters of labels of the x axis that are not upright
_DODGE = 1.2  # points between lines that have a marker at each value


def plot_lines(ax: Any, panel: Panel, looks: Mapping[Group, Look]) -> None:
    """Plot the lines that have a look; markers of equal lines are not on top of each other."""
    for i, (group, look) in enumerate(looks.items()):
        if group not in panel.lines:
            continue
        line = panel.lines[group]
        if len(line) > max(_USUAL, _FEWEST * len(looks)):
            every = max(len(line) // _USUAL, len(looks))
            first, place = i * every // len(looks), {}
        else:
            shift = _DODGE * (i - (len(looks) - 1) / 2)
            first, every, place = 0, 1, {"transform": _shift(ax, shift)}
        ax.plot(line["x"], line["mean"], markevery=(first, every), **place, **look)
        crosses = line[line["marked"]]
        if len(crosses):
            ax.plot(crosses["x"], crosses["mean"], color=look["color"], **place, **CROSS)
        low, high = panel.band(line)
        ax.fill_between(line["x"], low, high, color=look["color"], alpha=0.12, linewidth=0)


def _shift(ax: Any, points: float) -> Any:
    """Return the transform of data, shifted to the right."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transData + ScaledTranslation(points / 72, 0, ax.figure.dpi_scale_trans)


def set_axes(ax: Any, panel: Panel, width: float) -> None:
    """Set limits, scales and ticks.

    Args:
        width: of the axes in inches, about.
    """
    from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

    ax.set_ylim(panel.limits)
    if panel.is_logarithmic:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # exponents are too small
        ax.yaxis.set_minor_formatter(NullFormatter())
    low, high = panel.values["x"].min(), panel.values["x"].max()
    margin = 0.07 * (high - low) or 0.5
    ax.set_xlim(low - margin, high + margin)
    if panel.ticks:
        label_ticks(ax, panel.ticks, width)
    else:
        ax.xaxis.set_major_locator(
            MaxNLocator(max(1, int(width / 0.35)), integer=True, steps=[1, 2, 5, 10])
        )


def wrapped(text: str, width: float) -> str:
    """Return a text in lines that fit into a width in inches, without a break in m ⊙ w."""
    whole = text.replace("+ ", "+\xa0").replace(" ⊙ ", "\xa0⊙\xa0").replace(" →", "\xa0→")
    return textwrap.fill(whole, max(4, int(width / CHARACTER)), break_on_hyphens=False)


def label_ticks(ax: Any, ticks: Mapping[float, str], width: float) -> None:
    """Label the x axis, without labels for which there is no space."""
    longest = max(map(len, ticks.values()))
    upright = longest > LONGEST_LEVEL
    low, high = ax.get_xlim()
    least = (LINE if upright else CHARACTER * (longest + 1)) * (high - low) / width
    places: list[float] = []
    for x in sorted(ticks):
        if not places or x - places[-1] >= least:
            places.append(x)
    ax.set_xticks(places, [ticks[x] for x in places], rotation=90 if upright else 0)
