"""Figures over layers: sign flips (Figure 8), sparsity (Figure 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.groups import per_run
from analysis.figures.lines import draw_panels
from analysis.figures.maps import draw_maps
from analysis.figures.panels import Panel, share_y
from analysis.figures.style import Size
from analysis.flips import PHASES, flips_by_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_flips_by_layer(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw sign flips by layer, one panel per phase.

    Raises:
        UserError: the runs cannot be compared, or have no sign flips.
    """
    flips = per_run(runs, flips_by_layer)
    measured = [phase for phase in PHASES if phase in flips]
    panels = [_by_layer(flips, phase, phase, "sign flips (%)") for phase in measured]
    return draw_panels(share_y(panels), size, many=draw_maps)


def draw_sparsity_by_layer(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw the sparsity of each layer, of all but dense runs.

    Raises:
        UserError: the runs cannot be compared.
    """
    layers = per_run(runs[runs["sparsity"] > 0], _sparsity_by_layer)
    return draw_panels([_by_layer(layers, "sparsity", "", "sparsity (%)")], size, many=draw_maps)


def _sparsity_by_layer(layers: pd.DataFrame) -> pd.DataFrame:
    last = layers[layers["epoch"] == layers["epoch"].max()]
    return pd.DataFrame({"layer": last["layer"], "sparsity": 100 * (1 - last["density"])})


def _by_layer(table: pd.DataFrame, column: str, title: str, ylabel: str) -> Panel:
    """Return the panel of a column, with the layers in the order of the network."""
    names = [str(name) for name in table["layer"].unique()]
    values = table.assign(x=table["layer"].map(names.index), value=table[column])
    shown = {float(i): name.removesuffix(".weight") for i, name in enumerate(names)}
    return Panel(values.dropna(subset="value"), title, "layer", ylabel, shown)
