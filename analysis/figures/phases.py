"""Figure 1: sign flips by phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.dots import DotPanel, Series, draw_dots
from analysis.figures.groups import per_run
from analysis.figures.style import COLOURS, MARKERS, RULE_LOOKS, Size
from analysis.flips import PHASES, flips_by_phase
from analysis.names import FAMILIES, FROM_SCRATCH, RULES, is_fixed, method_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _series(phase: str, rule: str) -> str:
    return f"{phase}, {rule}" if rule else phase


_SERIES = [
    Series(_series(phase, rule), colour, marker, shift, RULE_LOOKS[rule].get("markerfacecolor"))
    for phase, colour, marker in zip(PHASES, COLOURS, MARKERS, strict=False)
    for rule, shift in zip(RULES, (-0.18, 0.18, 0.0), strict=True)
]


def draw_flips_by_phase(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw (a) methods that learn their masks and (b) masks trained from scratch.

    Raises:
        UserError: the runs cannot be compared, or have no sign flips.
    """
    flips = per_run(runs, flips_by_phase)
    flips = flips.assign(series=list(map(_series, flips["phase"], flips["rule"])))
    scratch = flips["label"].map(_is_from_scratch)
    titles = ("learned masks", FROM_SCRATCH)
    parts = zip((flips[~scratch], flips[scratch]), titles, strict=True)
    panels = [_panel(part, title) for part, title in parts if len(part)]
    return draw_dots(panels, _SERIES, size)


def _panel(flips: pd.DataFrame, title: str) -> DotPanel:
    """Return a panel of methods, those with the most flips at the end first."""
    table = flips.groupby(["label", "series"])["value"].agg(["mean", "std"])
    total = flips[flips["phase"] == list(PHASES)[-1]].groupby("label")["value"].max()
    order = list(total.sort_values(ascending=False).index)
    return DotPanel(table.fillna({"std": 0.0}).reset_index(), order, title, "sign flips (%)")


def _is_from_scratch(label: str) -> bool:
    return is_fixed(label) or method_of(label) in FAMILIES["pruning at initialisation"]
