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

_IMAGES = ["images", "per_class"]  # columns of numbers of images


def draw_flips_and_sharpness(runs: pd.DataFrame, size: Size) -> Figure:
    """Draw (a) sign flips since initialisation, (b) the largest Hessian eigenvalue.

    (b) is omitted with a warning if sharpness was not measured, or on different numbers of images.

    Raises:
        UserError: the runs cannot be compared.
    """
    flips = _by_epoch(runs, EPOCHS, "flips", 100)
    panels = [Panel(flips, "sign flips", "epoch", "flipped since init (%)")]
    sharpness = _by_epoch(runs, SHARPNESS, "sharpness", 1)
    if problem := _why_not_drawn(sharpness):
        warnings.warn(problem, stacklevel=2)
    else:
        panels.append(Panel(sharpness, "sharpness", "epoch", "largest eigenvalue"))
    return draw_panels(panels, size)


def _why_not_drawn(sharpness: pd.DataFrame) -> str:
    """Return why rows of sharpness cannot be drawn; "" if they can."""
    if not len(sharpness):
        return "sharpness was not measured: signbench sharpness"
    # earlier rows have the number of all images only
    asked = "per_class" in sharpness and bool(sharpness["per_class"].notna().all())
    numbers = sorted(sharpness["per_class" if asked else "images"].unique())
    if len(numbers) == 1:
        return ""
    found = ", ".join(f"{number:g}" for number in numbers) + " per class" * asked
    return (
        f"sharpness was measured on different numbers of images ({found}) and is not drawn: "
        "signbench sharpness --per-class NUMBER measures what has another number again"
    )


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
    """Return a column of a file of all runs, as `Panel` has its values, and `_IMAGES`."""
    parts = []
    for run in of_one_network(runs).to_dict("records"):
        rows = load_rows(run["folder"], file)
        if column in rows:
            # rows of epochs.csv are measured after the epoch
            x = rows["epoch"] + 1 if file == EPOCHS else rows["epoch"]
            part = rows.filter(_IMAGES).assign(x=x, value=factor * rows[column])
            parts.append(part.assign(**{c: run[c] for c in SAME}))
    # equal runs may have kept, and measured, other epochs
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return found.drop_duplicates([*SAME, "x"]) if parts else found
