"""Figures of finished runs: the paper's figures of trained networks, and two more.

Seeds become means, with a band or bar of one standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from analysis.figures.by_epoch import draw_curves, draw_flips_and_sharpness
from analysis.figures.by_layer import draw_flips_by_layer, draw_sparsity_by_layer
from analysis.figures.by_sparsity import draw_accuracy
from analysis.figures.gains import draw_gains
from analysis.figures.phases import draw_flips_by_phase
from analysis.figures.ranks import draw_ranks
from analysis.figures.style import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "FigureKind", "save"]


class FigureKind(NamedTuple):
    """A kind of figure: its caption, and the function that draws runs.

    `draw` takes runs from `analysis.frame.load_runs` and raises UserError if they cannot be
    compared.
    """

    caption: str
    draw: Callable[[pd.DataFrame], Figure]


FIGURES = {
    "1": FigureKind(
        "Sign flips by phase: (a) methods that learn their masks, (b) masks trained from scratch",
        draw_flips_by_phase,
    ),
    "5": FigureKind(
        "(a) Sign flips since initialisation, (b) the largest Hessian eigenvalue, by epoch",
        draw_flips_and_sharpness,
    ),
    "8": FigureKind("Sign flips by layer in three stages", draw_flips_by_layer),
    "9": FigureKind("Sparsity of masks by layer", draw_sparsity_by_layer),
    "curves": FigureKind("Training loss and test accuracy by epoch", draw_curves),
    "compare": FigureKind(
        "Accuracy against sparsity: one line per method, dashed with Sign-In", draw_accuracy
    ),
    "gains": FigureKind(
        "(a) Accuracy of each pair of runs, plain and with Sign-In, (b) mean gain of Sign-In",
        draw_gains,
    ),
    "ranks": FigureKind("Average ranks over recipes and sparsities", draw_ranks),
}
