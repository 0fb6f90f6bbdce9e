"""Panels of lines, and groups of methods that one panel can show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.groups import lowest_typical
from analysis.figures.style import MOST
from analysis.names import FAMILIES, FIXED, OTHERS, family_of, name_of


def place_of_sparsity(sparsity: Any) -> Any:
    """Return the position on the sparsity axis: equal factors of density are equally far apart."""
    return -np.log10(np.maximum(1 - sparsity, 1e-9))


@dataclass(frozen=True)
class Panel:
    """Values that are drawn as one line per method, with the deviation over seeds.

    Attributes:
        values: columns label, rule, seed, x, value, and optionally marked, for dots with a cross.
        ticks: texts by x; if empty, x is an integer.
        ylimits: ends of the y axis; None: they follow from the values.
        zoom: the y axis shows the values in this last part of the x axis, without methods far
            below the others; None: it shows all values.
    """

    values: pd.DataFrame
    title: str
    xlabel: str
    ylabel: str
    ticks: Mapping[float, str] = field(default_factory=dict)
    ylimits: tuple[float, float] | None = None
    zoom: float | None = None

    @cached_property
    def means(self) -> pd.DataFrame:
        """Mean and deviation over seeds by label, rule and x, both ends of the band, and marked."""
        groups = self.values.groupby(["label", "rule", "x"])
        table = groups["value"].agg(["mean", "std"])
        std = table["std"].fillna(0.0)
        table = table.assign(low=table["mean"] - std, high=table["mean"] + std, marked=False)
        if "marked" in self.values:
            table["marked"] = groups["marked"].any()
        return table.reset_index()

    @property
    def is_logarithmic(self) -> bool:
        """Whether the values span decades."""
        lowest, highest = self.means["mean"].min(), self.means["mean"].max()
        return bool(self.zoom is None and 0 < 50 * lowest < highest)

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Ends of the y axis."""
        if self.ylimits is not None:
            return self.ylimits
        table = self.means
        if self.is_logarithmic:
            return 0.7 * table["mean"].min(), 1.4 * table["mean"].max()
        if self.zoom is not None:
            x = table["x"]
            table = table[x >= x.max() - self.zoom * (x.max() - x.min())]
            table = table[table["mean"] >= lowest_typical(table["mean"])]
        low, high = float(table["low"].min()), float(table["high"].max())
        margin = 0.05 * (high - low) or 0.5
        return low - margin, high + margin

    @property
    def below(self) -> set[str]:
        """Labels of methods whose lines are all below the axis."""
        highest = self.means.groupby("label")["mean"].max()
        return set(highest[highest < self.limits[0]].index)


def share_y(panels: Sequence[Panel]) -> list[Panel]:
    """Return the panels with the same y axis, named at the first one."""
    lows, highs = zip(*(panel.limits for panel in panels), strict=True)
    limits = min(lows), max(highs)
    return [
        replace(panel, ylimits=limits, ylabel="" if i else panel.ylabel)
        for i, panel in enumerate(panels)
    ]


def group_methods(labels: Iterable[str]) -> dict[str, list[str]]:
    """Return groups of at most `MOST` labels by title: families, or several small families."""
    ordered = sorted(labels, key=lambda label: name_of(label).casefold())
    if len(ordered) <= MOST:
        return {"": ordered}
    groups: dict[str, list[str]] = {}
    for family in (*FAMILIES, OTHERS, FIXED):
        members = [label for label in ordered if family_of(label) == family]
        last = next(reversed(groups), "")
        if groups and members and len(groups[last]) + len(members) <= MOST:
            groups[f"{last}, {family}"] = groups.pop(last) + members
            continue
        parts = -(-len(members) // MOST)
        for i, part in enumerate(np.array_split(members, parts) if parts else []):
            groups[family + (f" ({i + 1})" if parts > 1 else "")] = part.tolist()
    return groups
