"""Figures over layers: sign flips (Figure 8), sparsity (Figure 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.figures.flips import PHASES, flips_by_layer
from analysis.figures.groups import by_method, per_run
from analysis.figures.style import PAGE, legend_below, look, subplots
from analysis.names import legend_entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMES = 27  # names of layers that fit below the axis


def draw_flips_by_layer(runs: pd.DataFrame) -> Figure:
    """Draw sign flips by layer, one panel per phase.

    Raises:
        UserError: the runs cannot be compared, or have no sign flips.
    """
    flips = per_run(runs, flips_by_layer)
    drawn, axes = subplots(3, PAGE, 2.3, sharey=True)
    for ax, phase in zip(axes, PHASES, strict=True):
        _lines(ax, flips, phase)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(title=phase, xlabel="layer", ylabel="sign flips (%)" if ax is axes[0] else "")
    legend_below(drawn, axes)
    return drawn


def draw_sparsity_by_layer(runs: pd.DataFrame) -> Figure:
    """Draw the sparsity of each layer.

    Raises:
        UserError: the runs cannot be compared.
    """
    layers = per_run(runs, _sparsity_by_layer)
    drawn, (ax,) = subplots(1, PAGE, 2.6)
    _lines(ax, layers, "sparsity")
    names = _layer_names(layers)
    shown = range(0, len(names), max(1, len(names) // MOST_NAMES))
    ax.set_xticks(
        list(shown), [names[i].removesuffix(".weight") for i in shown], rotation=60, ha="right"
    )
    ax.set(xlabel="", ylabel="sparsity (%)")
    legend_below(drawn, [ax])
    return drawn


def _sparsity_by_layer(layers: pd.DataFrame) -> pd.DataFrame:
    last = layers[layers["epoch"] == layers["epoch"].max()]
    return pd.DataFrame({"layer": last["layer"], "sparsity": 100 * (1 - last["density"])})


def _lines(ax: Any, table: pd.DataFrame, column: str) -> None:
    """Draw one line per method, with a band over seeds."""
    names = _layer_names(table)
    for (label, sign_in), group in by_method(table):
        if column not in group:
            continue
        values = group.groupby("layer")[column].agg(["mean", "std"]).reindex(names)
        x, mean, std = range(len(names)), values["mean"], values["std"].fillna(0)
        line = look(label, sign_in) | {"markevery": max(1, len(names) // 10)}
        ax.plot(x, mean, label=legend_entry(label, sign_in), **line)
        ax.fill_between(x, mean - std, mean + std, color=line["color"], alpha=0.15, linewidth=0)


def _layer_names(table: pd.DataFrame) -> list[str]:
    """Return the layers in the order of the network."""
    return [str(name) for name in table["layer"].unique()]
