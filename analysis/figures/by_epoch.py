"""Figures over epochs: sign flips and sharpness (Figure 5), loss and accuracy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pandas as pd

from analysis.figures.groups import SAME, of_one_network
from analysis.figures.lines import draw_panels
from analysis.figures.panels import Panel
from analysis.figures.style import Size
from analysis.folder import EPOCHS, SHARPNESS
from analysis.frame import load_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_flips_and_sharpness(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw (a) sign flips since initialisation, (b) the largest Hessian eigenvalue.

    Without (b), and with a warning, if sharpness was not measured.

    Raises:
        UserError: the runs cannot be compared.
    """
    flips = _by_epoch(runs, EPOCHS, "flips", 100)
    panels = [Panel(flips, "sign flips", "epoch", "flipped since init (%)")]
    sharpness = _by_epoch(runs, SHARPNESS, "sharpness", 1)
    if len(sharpness):
        panels.append(Panel(sharpness, "sharpness", "epoch", "largest eigenvalue"))
    else:
        warnings.warn("sharpness was not measured: signbench sharpness", stacklevel=2)
    return draw_panels(panels, size)


def draw_curves(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw training loss and test accuracy.

    Raises:
        UserError: the runs cannot be compared.
    """
    loss = _by_epoch(runs, EPOCHS, "train_loss", 1)
    accuracy = _by_epoch(runs, EPOCHS, "test_accuracy", 100)
    panels = (
        Panel(loss, "training loss", "epoch", "cross entropy"),
        Panel(accuracy, "test accuracy", "epoch", "accuracy (%)", zoom=0.75),
    )
    return draw_panels(panels, size)


def _by_epoch(runs: pd.DataFrame, file: str, column: str, factor: float) -> pd.DataFrame:
    """Return a column of a file of all runs, as `Panel` has its values."""
    parts = []
    for run in of_one_network(runs).to_dict("records"):
        rows = load_rows(run["folder"], file)
        if column in rows:
            # rows of epochs.csv are measured after the epoch
            x = rows["epoch"] + 1 if file == EPOCHS else rows["epoch"]
            part = pd.DataFrame({"x": x, "value": factor * rows[column]})
            parts.append(part.assign(**{c: run[c] for c in SAME}))
    # equal runs may have kept, and measured, other epochs
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return found.drop_duplicates([*SAME, "x"]) if parts else found
