"""Loss and error on the line between two networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.style import COLOURS, GREY, WIDTHS, Size, in_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT = 1.9  # inches


def draw_barrier(points: pd.DataFrame) -> Figure:
    """Draw error and loss against the position on the line, with the straight line as dashes.

    Args:
        points: has columns position, loss and error (a fraction), in ascending order of position.
    """
    with in_style():
        drawn = new_figure(Size(WIDTHS["text"]), _HEIGHT)
        panels = drawn.subplots(1, 2)
        curves = (("test error (%)", 100 * points["error"]), ("test loss", points["loss"]))
        at = points["position"]
        for axes, (label, values) in zip(panels, curves, strict=True):
            ends = values.iloc[[0, -1]]
            axes.plot(at.iloc[[0, -1]], ends, linestyle="--", color=GREY)
            axes.plot(at, values, color=COLOURS[0], marker="o")
            axes.set(ylabel=label, xlabel="position", ylim=(0, None), xticks=[0, 0.5, 1])
            axes.set_xticklabels(["first", "0.5", "second"])
    return drawn
