"""Panels: values by method and x, and the order in which methods are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.groups import Group, by_method, lowest_typical
from analysis.names import (
    FAMILIES,
    OTHERS,
    RULES,
    family_of,
    is_fixed,
    mask_of,
    name_of,
    short_names,
)

BELOW = "↓"  # behind the name of a method below the axis


def place_of_sparsity(sparsity: Any) -> Any:
    """Return the position on the sparsity axis: equal factors of density are equally far apart."""
    return -np.log10(np.maximum(1 - sparsity, 1e-9))


@dataclass(frozen=True)
class Panel:
    """Values of each method by x, with the deviation over seeds.

    Attributes:
        values: columns label, rule, seed, x, value, and optionally marked, for dots with a cross.
        ticks: texts by x; if empty, x is an integer.
        ylimits: ends of the y axis; None: they follow from the values.
        zoom: the y axis shows the values in this last part of the x axis, without methods far
            below the others; None: it shows all values.
        logarithmic: whether the y axis is; None: if the values span decades.
    """

    values: pd.DataFrame
    title: str
    xlabel: str
    ylabel: str
    ticks: Mapping[float, str] = field(default_factory=dict)
    ylimits: tuple[float, float] | None = None
    zoom: float | None = None
    logarithmic: bool | None = None

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

    @cached_property
    def lines(self) -> dict[Group, pd.DataFrame]:
        """Rows of `means` by label and rule, in the order of x."""
        return dict(by_method(self.means))

    @property
    def is_logarithmic(self) -> bool:
        """Whether the y axis is logarithmic."""
        if self.logarithmic is not None:
            return self.logarithmic
        lowest, highest = self.means["mean"].min(), self.means["mean"].max()
        return bool(self.zoom is None and 0 < 50 * lowest < highest)

    def band(self, line: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
        """Return the lower and upper end of the band around a line.

        On a logarithmic axis it is as wide below the mean as above: mean − std can be negative.
        """
        if self.is_logarithmic:
            return line["mean"] ** 2 / line["high"], line["high"]
        return line["low"], line["high"]

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
    """Return the panels with the same y axis, named at the first one.

    It is logarithmic if the values of each panel span decades.
    """
    logarithmic = all(panel.is_logarithmic for panel in panels)
    panels = [replace(panel, logarithmic=logarithmic) for panel in panels]
    lows, highs = zip(*(panel.limits for panel in panels), strict=True)
    limits = min(lows), max(highs)
    return [
        replace(panel, ylimits=limits, ylabel="" if i else panel.ylabel)
        for i, panel in enumerate(panels)
    ]


def groups_of(panels: Iterable[Panel]) -> list[Group]:
    """Return the groups that the panels show, by family of the method, then by name and rule."""
    found = {group for panel in panels for group in panel.lines}
    return sorted(found, key=_place)


def _place(group: Group) -> tuple[Any, ...]:
    label, rule = group
    own = mask_of(label)
    family = (*FAMILIES, OTHERS).index(family_of(own))
    return family, name_of(own).casefold(), is_fixed(label), name_of(label), RULES.index(rule)


def names_of(panels: Sequence[Panel]) -> dict[Group, str]:
    """Return the names of groups, marked if their method is below the axis."""
    groups = groups_of(panels)
    names, below = short_names(label for label, _ in groups), {b for p in panels for b in p.below}
    return {group: f"{names[group[0]]} {BELOW * (group[0] in below)}".strip() for group in groups}


def rows_of(groups: Iterable[Group]) -> list[list[Group]]:
    """Return the groups of each method, with those of its final mask trained from scratch."""
    rows: dict[str, list[Group]] = {}
    for label, rule in groups:
        own = mask_of(label)
        rows.setdefault(own if label == f"fixed ({own}@final)" else label, []).append((label, rule))
    return list(rows.values())
