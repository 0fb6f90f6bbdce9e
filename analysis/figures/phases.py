"""Figure 1: sign flips by phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.figures.flips import PHASES, flips_by_phase
from analysis.figures.groups import per_run
from analysis.figures.style import PAGE, legend_below, subplots
from analysis.names import is_fixed, legend_entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FROM_SCRATCH = ("random", "snip", "synflow", "grasp", "phew", "npb")


def draw_flips_by_phase(runs: pd.DataFrame) -> Figure:
    """Draw (a) methods that learn their masks and (b) masks trained from scratch.

    Raises:
        UserError: the runs cannot be compared, or have no sign flips.
    """
    flips = per_run(runs, flips_by_phase)
    scratch = flips["label"].map(_is_from_scratch)
    drawn, axes = subplots(2, PAGE, 2.1, sharey=True, gridspec_kw={"width_ratios": [1, 1.3]})
    titles = ("(a) dense to sparse", "(b) from scratch")
    for ax, part, title in zip(axes, (flips[~scratch], flips[scratch]), titles, strict=True):
        _bars(ax, part)
        ax.set(title=title, xlabel="", ylabel="sign flips (%)" if ax is axes[0] else "")
    legend_below(drawn, axes)
    return drawn


def _is_from_scratch(label: str) -> bool:
    return is_fixed(label) or label.startswith(FROM_SCRATCH)


def _bars(ax: Any, flips: pd.DataFrame) -> None:
    import seaborn

    ordered = flips.sort_values(["label", "sign_in"])
    entries = map(legend_entry, ordered["label"], ordered["sign_in"])
    named = ordered.assign(run=list(entries))
    colours = dict(zip(PHASES, seaborn.color_palette("colorblind")[:3], strict=True))
    if len(named):
        seaborn.barplot(
            named,
            x="run",
            y="value",
            hue="phase",
            hue_order=list(PHASES),
            palette=colours,
            errorbar="sd",
            err_kws={"linewidth": 0.8},
            ax=ax,
            legend=True,
        )
        ax.tick_params(axis="x", rotation=25)
        for tick in ax.get_xticklabels():
            tick.set_horizontalalignment("right")
