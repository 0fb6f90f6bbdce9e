"""Figures of finished runs: the paper's figures of trained networks, and two more.

Seeds become means, with a band or bar of one standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.by_epoch import draw_curves, draw_flips_and_sharpness
from analysis.figures.by_layer import draw_flips_by_layer, draw_sparsity_by_layer
from analysis.figures.by_sparsity import draw_accuracy, draw_ranking
from analysis.figures.gains import draw_gains
from analysis.figures.groups import select_methods
from analysis.figures.phases import draw_flips_by_phase
from analysis.figures.ranks import draw_ranks
from analysis.figures.reversed_signs import draw_reversed_signs
from analysis.figures.style import WIDTHS, Size, in_style, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_SIZE = Size()

__all__ = ["FIGURES", "WIDTHS", "FigureKind", "Size", "save", "select_methods"]


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure: its caption, and the function that draws it."""

    caption: str
    function: Callable[[pd.DataFrame, Size], Figure]

    def draw(self, runs: pd.DataFrame, size: Size = DEFAULT_SIZE) -> Figure:
        """Draw runs from `analysis.frame.load_runs`.

        Raises:
            UserError: the runs cannot be compared.
        """
        with in_style():
            return self.function(runs, size)


_SHARPNESS = "sharpness (the largest Hessian eigenvalue)"
FIGURES = {
    "ranking": FigureKind("Accuracy of each method, best first, by sparsity", draw_ranking),
    "compare": FigureKind("Accuracy against sparsity", draw_accuracy),
    "gains": FigureKind("Gains of Sign-In and HAM over plain runs with the same seeds", draw_gains),
    "ranks": FigureKind("Average ranks over recipes and sparsities", draw_ranks),
    "signs": FigureKind(
        "Accuracy of learned masks against the share of reversed signs", draw_reversed_signs
    ),
    "curves": FigureKind("Training loss and test accuracy by epoch", draw_curves),
    "1": FigureKind("Sign flips by phase, of learned masks and from scratch", draw_flips_by_phase),
    "5": FigureKind(f"Sign flips and {_SHARPNESS} by epoch", draw_flips_and_sharpness),
    "8": FigureKind("Sign flips by layer in three phases", draw_flips_by_layer),
    "9": FigureKind("Sparsity of masks by layer", draw_sparsity_by_layer),
}
